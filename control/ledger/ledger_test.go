package ledger

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const service, name = "shop", "checkout"

type rig struct {
	t      *testing.T
	memory *memkv.Memory

	mu   sync.Mutex
	told []told
}

// told is what Options.Written is told.
type told struct {
	state      *controlv1.RunState
	transition *controlv1.Transition
	key        string
}

// tellings says of which reasons was told.
func (r *rig) tellings() (reasons []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.told {
		reasons = append(reasons, one.state.GetReason())
	}
	return reasons
}

// open opens a ledger that is closed with the test.
func (r *rig) open(store kv.Store) *Ledger { return r.openKnowing(store) }

// openKnowing is open for a sidecar that has heard of states.
func (r *rig) openKnowing(store kv.Store, known ...*controlv1.RunState) *Ledger {
	ctx, cancel := context.WithCancel(r.t.Context())
	l := Open(ctx, Options{
		Store: store, Kind: control.Experiment, Service: service, Known: func(string) []*controlv1.RunState { return known },
		Written: func(s *controlv1.RunState, transition *controlv1.Transition, key string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, told{s, transition, key})
		},
	})
	r.t.Cleanup(func() { cancel(); l.Close() })
	synctest.Wait()
	return l
}

func (r *rig) write(key string, m proto.Message) {
	r.t.Helper()
	value, err := protojson.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.memory.Store().Commit(r.t.Context(), kv.Op{Key: key, Value: value, Any: true}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) entry(l *Ledger) Entry {
	r.t.Helper()
	entries, known := l.Entries()
	if !known {
		r.t.Fatal("nothing is known")
	}
	return entries[name]
}

// begun opens a ledger, and writes a state of which nothing is told any more.
func (r *rig) begun(store kv.Store) *Ledger {
	r.t.Helper()
	l := r.open(store)
	if err := l.Commit(Entry{Name: name}, state("begun", 0), nil); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	r.told = nil
	return l
}

func (r *rig) history() int {
	list, err := r.memory.Store().List(r.t.Context(), control.TransitionsPrefix(control.Experiment, service, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(list)
}

func state(reason string, request uint64) *controlv1.RunState {
	return &controlv1.RunState{Document: []byte("document"), Run: 1, Phase: controlv1.Phase_PHASE_RUNNING, Reason: reason, Request: request}
}

func test(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, &rig{t: t, memory: memkv.New()}) })
}

func TestWhatIsAskedIsDoneOnce(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		l := r.open(r.memory.Store())
		if entries, known := l.Entries(); !known || len(entries) != 0 {
			t.Fatalf("%v, %v of an empty store", entries, known)
		}
		r.write(control.DocumentKey(control.Experiment, service, name), &controlv1.Document{
			Revision: 3, Body: &controlv1.Document_Experiment{Experiment: &configv1.Experiment{Name: name, Service: service}},
		})
		r.write(control.RequestKey(control.Experiment, service, name), &controlv1.Request{Number: 1, Action: controlv1.Action_ACTION_START})
		e := r.entry(l)
		if !e.Pending() || e.Document.GetRevision() != 3 {
			t.Fatalf("%+v is known", e)
		}
		if err := l.Commit(e, state("because", 1), []byte("results")); err != nil {
			t.Fatal(err)
		}
		if got := r.tellings(); !slices.Equal(got, []string{"because"}) || string(r.told[0].state.GetDocument()) != "document" {
			t.Fatalf("told of %q", got)
		}
		transition, key := r.told[0].transition, r.told[0].key
		if e = r.entry(l); e.Pending() || e.State.GetNumber() != 1 || e.State.GetSince() == nil || string(e.State.GetDocument()) != "document" || transition.GetState().GetNumber() != 1 {
			t.Errorf("%+v after the commit", e)
		}
		kept, err := r.memory.Store().Get(t.Context(), key)
		read := &controlv1.Transition{}
		if err != nil || protojson.Unmarshal(kept.Value, read) != nil || !proto.Equal(read, transition) || string(read.GetResults()) != "results" {
			t.Errorf("the history has %s, %v", kept.Value, err)
		}
		// What people do meanwhile does not touch it.
		r.write(control.RequestKey(control.Experiment, service, name), &controlv1.Request{Number: 2, Action: controlv1.Action_ACTION_STOP})
		if e = r.entry(l); !e.Pending() {
			t.Error("the second request is not seen")
		}
		if err := l.Commit(e, state("again", 2), nil); err != nil || r.history() != 2 {
			t.Errorf("%v; the history has %d", err, r.history())
		}
	})
}

// Who was elected before writes nothing any more, and learns what is true.
func TestWhoIsDeposedWritesNothing(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		cut := r.memory.Store()
		old, now := r.open(cut), r.open(r.memory.Store())
		if err := now.Commit(Entry{Name: name}, state("first", 1), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before := r.entry(old)
		if err := now.Commit(r.entry(now), state("second", 2), nil); err != nil {
			t.Fatal(err)
		}
		if err := old.Commit(before, state("mine", 2), nil); !errors.Is(err, ErrChanged) {
			t.Errorf("%v", err)
		}
		if e := r.entry(old); e.State.GetReason() != "second" || r.history() != 2 {
			t.Errorf("%v is known, and the history has %d", e.State, r.history())
		}
	})
}

// Where the answer of the store is lost, reading tells whether it was done.
func TestAnswerIsLost(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		store := r.memory.Store()
		l := r.begun(store)
		away := errors.New("away")
		store.SetFault(memkv.Fault{Err: away, Unheard: true})
		if err := l.Commit(r.entry(l), state("first", 1), nil); !errors.Is(err, away) {
			t.Fatalf("%v", err)
		}
		store.SetFault(memkv.Fault{})
		synctest.Wait()
		if e := r.entry(l); e.State.GetReason() != "first" {
			t.Fatalf("%v is known", e.State)
		}
		if got := r.tellings(); !slices.Equal(got, []string{"first"}) {
			t.Errorf("told of %q", got)
		}
		if err := l.Commit(r.entry(l), state("second", 2), nil); err != nil {
			t.Errorf("%v", err)
		}
		if got := r.tellings(); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("told of %q", got)
		}
	})
}

// Where the answer is lost and the store is not followed meanwhile, the next commit finds
// out what was written before it writes, and tells of it.
func TestNextCommitFindsOut(t *testing.T) {
	for name, f := range map[string]memkv.Fault{"written": {Unheard: true}, "not written": {}} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, r *rig) {
				store := r.memory.Store()
				l := r.begun(store)
				before := r.entry(l)
				f.Err = errors.New("away")
				store.SetFault(f)
				if err := l.Commit(before, state("first", 1), nil); !errors.Is(err, f.Err) {
					t.Fatalf("%v", err)
				}
				if err := l.Commit(before, state("again", 1), nil); !errors.Is(err, f.Err) {
					t.Fatalf("%v", err)
				}
				store.SetFault(memkv.Fault{})
				err := l.Commit(before, state("again", 1), nil)
				want := []string{"again"}
				if f.Unheard {
					want = []string{"first"}
				}
				if errors.Is(err, ErrChanged) != f.Unheard || !slices.Equal(r.tellings(), want) || r.entry(l).State.GetReason() != want[0] {
					t.Errorf("%v; told of %q; known is %v", err, r.tellings(), r.entry(l).State)
				}
			})
		})
	}
}

// What others have written by hand ends nothing.
func TestWhatCannotBeRead(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		l := r.open(r.memory.Store())
		var ops []kv.Op
		for _, key := range []string{
			control.StateKey(control.Experiment, service, name), control.RequestKey(control.Experiment, service, name),
			control.DocumentKey(control.Experiment, service, name), control.StatePrefix(service) + "experiment/a/b",
		} {
			ops = append(ops, kv.Op{Key: key, Value: []byte(`{"name": 7`), Any: true})
		}
		if err := r.memory.Store().Commit(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if e := r.entry(l); e.Problem == nil || e.Request != nil || e.State != nil {
			t.Errorf("%+v is known", e)
		}
		// A state that nobody can read stands in nobody's way.
		if err := l.Commit(r.entry(l), state("first", 1), nil); err != nil || r.entry(l).State.GetReason() != "first" {
			t.Errorf("%v; %v is known", err, r.entry(l).State)
		}
	})
}
