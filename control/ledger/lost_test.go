package ledger

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// delete deletes all that is below prefixes.
func (r *rig) delete(prefixes ...string) {
	r.t.Helper()
	store := r.memory.Store()
	var ops []kv.Op
	for _, prefix := range prefixes {
		list, err := store.List(r.t.Context(), prefix)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range list {
			ops = append(ops, kv.Op{Key: e.Key, Any: true})
		}
	}
	if err := store.Commit(r.t.Context(), ops...); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

var (
	stateKey    = control.StateKey(control.Experiment, service, name)
	transitions = control.TransitionsPrefix(control.Experiment, service, name)
)

// Somebody who removes a state ends the run. The next one counts on from it, also where
// nobody remembers it but the history.
func TestStatesThatAreRemoved(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		l := r.open(r.memory.Store())
		for n := uint64(1); n < 6; n += 2 {
			for _, reason := range []string{"first", "second"} {
				if err := l.Commit(Entry{Name: name, State: r.entry(l).State, version: r.entry(l).version}, state(reason, n), nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			if e := r.entry(l); e.State.GetNumber() != n+1 {
				t.Fatalf("%v is known", e.State)
			}
			r.delete(stateKey)
			if e := r.entry(l); e.State != nil || e.Lost {
				t.Fatalf("%+v is known of what was removed", e)
			}
			if n == 3 {
				l = r.open(r.memory.Store())
			}
		}
		if n := r.history(); n != 6 {
			t.Errorf("the history has %d entries, as numbers were given twice", n)
		}
	})
}

// A state that is gone together with its history was lost: it holds, and is written again.
func TestStatesThatAreLost(t *testing.T) {
	for _, fresh := range []string{"who knew it", "another, who heard of it", "another, who did not"} {
		t.Run(fresh, func(t *testing.T) {
			test(t, func(t *testing.T, r *rig) {
				l := r.begun(r.memory.Store())
				if err := l.Commit(r.entry(l), state("second", 7), nil); err != nil {
					t.Fatal(err)
				}
				before := r.entry(l).State
				r.delete(stateKey, transitions)
				switch fresh {
				case "another, who heard of it":
					l = r.openKnowing(r.memory.Store(), before, &controlv1.RunState{Name: "endless", Number: 1 << 63})
				case "another, who did not":
					l = r.open(r.memory.Store())
				}
				entries, known := l.Entries()
				if fresh == "another, who did not" {
					if !known || len(entries) != 0 {
						t.Errorf("%v is known of nothing", entries)
					}
					return
				}
				e := entries[name]
				if !known || len(entries) != 1 || !e.Lost || !proto.Equal(e.State, before) {
					t.Fatalf("%+v is known, %v", entries, known)
				}
				// Somebody asks for something of a store that has no requests any more.
				r.write(control.RequestKey(control.Experiment, service, name), &controlv1.Request{Number: 1, Action: controlv1.Action_ACTION_STOP})
				e = r.entry(l)
				if err := l.Commit(e, e.Restored("me"), nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				e = r.entry(l)
				if e.Lost || !e.Pending() || e.State.GetNumber() != before.GetNumber()+1 || e.State.GetRun() != before.GetRun() ||
					e.State.GetReason() != "the store had lost it; before that: second" || e.State.GetBy() != "me" || string(e.State.GetDocument()) != "document" {
					t.Errorf("%+v is known", e)
				}
			})
		})
	}
}

// While the store cannot be asked, what was there holds.
func TestStoreIsAwayWhenAStateIsGone(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		store := r.memory.Store()
		l := r.begun(store)
		store.SetFault(memkv.Fault{Err: errors.New("away")})
		synctest.Wait()
		if l.Away() == nil {
			t.Error("it is not known that the store is away")
		}
		r.delete(stateKey)
		time.Sleep(10 * time.Second)
		if e := r.entry(l); e.State == nil || e.Lost {
			t.Errorf("%+v is known", e)
		}
		store.SetFault(memkv.Fault{})
		time.Sleep(10 * time.Second)
		if e := r.entry(l); e.State != nil || l.Away() != nil {
			t.Errorf("%+v is known, %v", e, l.Away())
		}
	})
}

// What cannot be read does not end what is known to hold: that is written over it.
func TestUnreadableStateIsWrittenOver(t *testing.T) {
	for _, value := range []string{`{"name": 7`, `{"kind":"experiment","name":"checkout","service":"shop","number":"4611686018427387905"}`, `{}`} {
		t.Run(value, func(t *testing.T) {
			test(t, func(t *testing.T, r *rig) {
				l := r.begun(r.memory.Store())
				before := r.entry(l).State
				if err := r.memory.Store().Commit(t.Context(), kv.Op{Key: stateKey, Value: []byte(value), Any: true}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				e := r.entry(l)
				if !e.Lost || e.State != before {
					t.Fatalf("%+v is known", e)
				}
				if err := l.Commit(e, e.Restored("me"), nil); err != nil || r.entry(l).Lost || r.entry(l).State.GetNumber() != 2 {
					t.Errorf("%v; %+v is known", err, r.entry(l))
				}
			})
		})
	}
}

// Somebody has written the highest numbers that there are: they can be read, and 1 comes
// after them.
func TestHighestNumbers(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		highest := state("forged", control.MaxNumber)
		highest.Kind, highest.Name, highest.Service, highest.Run, highest.Number = string(control.Experiment), name, service, control.MaxNumber, control.MaxNumber
		r.write(stateKey, highest)
		l := r.open(r.memory.Store())
		if e := r.entry(l); e.State.GetNumber() != control.MaxNumber || e.Pending() {
			t.Fatalf("%+v is known", e)
		}
		r.write(control.RequestKey(control.Experiment, service, name), &controlv1.Request{Number: 1})
		if e := r.entry(l); !e.Pending() {
			t.Error("nothing can be asked any more")
		}
		for n := uint64(1); n < 4; n++ {
			e := r.entry(l)
			next := state("next", 1)
			next.Run = control.Next(e.State.GetRun())
			if err := l.Commit(e, next, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if e = r.entry(l); e.Lost || e.State.GetNumber() != n || e.State.GetRun() != n || e.Pending() {
				t.Fatalf("%+v is known", e)
			}
		}
		if got := r.tellings(); !slices.Equal(got, []string{"next", "next", "next"}) {
			t.Errorf("told of %q", got)
		}
	})
}

// What a sidecar says of later numbers has what comes next come after them, within a bound:
// whatever it says, states can be read and followed by others. It has nothing run, and
// outranks nothing more than once.
func TestForgedNumbers(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		l := r.open(r.memory.Store())
		say := func(number, run uint64) {
			l.Heard([]*meshv1.Heard{
				nil, {Kind: "canary", Name: name, Number: 1 << 40}, {Kind: "experiment", Name: name, Number: number, Run: run},
			})
		}
		say(1<<64-1, 1<<64-1)
		if entries, _ := l.Entries(); len(entries) != 0 {
			t.Fatalf("%v runs, as somebody says", entries)
		}
		if err := l.Commit(Entry{Name: name}, state("first", 1), nil); err != nil {
			t.Fatal(err)
		}
		first := r.entry(l)
		if n := first.State.GetNumber(); n == 0 || n > 2*maxAhead || first.State.GetRun() > 2*maxAhead {
			t.Fatalf("the first state is %v", first.State)
		}
		numbers := first.State.GetNumber()
		for range 10 {
			say(1<<64-1, 1<<64-1)
			e := r.entry(l)
			next := proto.CloneOf(e.State)
			if e.Behind {
				next = e.Ahead("me")
			}
			if err := l.Commit(e, next, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			now := r.entry(l)
			if now.State == nil || now.Lost || !control.After(now.State.GetNumber(), numbers) || now.State.GetNumber() > numbers+2*maxAhead {
				t.Fatalf("%v came after %d", now.State, numbers)
			}
			numbers = now.State.GetNumber()
		}
		if e := r.entry(l); e.Behind || e.State.GetRun() > 3*maxAhead+3 {
			t.Errorf("%+v is known", e)
		}
		for n := range 2 * maxHeard {
			l.Heard([]*meshv1.Heard{{Kind: "experiment", Name: strconv.Itoa(n), Number: 1}})
		}
		if len(l.heard) > maxHeard {
			t.Errorf("%d names are kept", len(l.heard))
		}
	})
}

// A store that was set back, as from a snapshot, is right: its state holds, and what comes
// next has a number after all that are known.
func TestStoreIsSetBack(t *testing.T) {
	test(t, func(t *testing.T, r *rig) {
		l := r.begun(r.memory.Store())
		before, err := r.memory.Store().Get(t.Context(), stateKey)
		if err != nil {
			t.Fatal(err)
		}
		for _, reason := range []string{"second", "third"} {
			if err := l.Commit(r.entry(l), state(reason, 1), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.memory.Store().Commit(t.Context(), kv.Op{Key: stateKey, Value: before.Value, Any: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		e := r.entry(l)
		if e.State.GetNumber() != 1 || e.Lost {
			t.Fatalf("%+v is known", e)
		}
		if err := l.Commit(e, state("fourth", 1), nil); err != nil || r.entry(l).State.GetReason() != "fourth" || r.entry(l).State.GetNumber() != 4 {
			t.Errorf("%v; %+v is known", err, r.entry(l))
		}
	})
}
