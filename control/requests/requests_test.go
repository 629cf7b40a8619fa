package requests

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

var subject = Subject{control.Experiment, "shop", "checkout"}

func write(t *testing.T, store kv.Store, key string, m proto.Message) {
	t.Helper()
	value, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Commit(t.Context(), kv.Op{Key: key, Value: value, Any: true}); err != nil {
		t.Fatal(err)
	}
}

func stateKey() string { return control.StateKey(subject.Kind, subject.Service, subject.Name) }

// Nothing is begun that somebody asked for long ago, but what ends a run still is.
func TestOutdated(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for _, test := range []struct {
		action   controlv1.Action
		ago      time.Duration
		outdated bool
	}{
		{controlv1.Action_ACTION_START, 59 * time.Minute, false},
		{controlv1.Action_ACTION_START, 61 * time.Minute, true},
		{controlv1.Action_ACTION_START, -24 * time.Hour, false},
		{controlv1.Action_ACTION_PROMOTE_FULLY, 61 * time.Minute, true},
		{controlv1.Action_ACTION_RESUME, 61 * time.Minute, true},
		{controlv1.Action_ACTION_ABORT, 61 * time.Minute, false},
		{controlv1.Action_ACTION_PAUSE, 61 * time.Minute, false},
		{controlv1.Action_ACTION_STOP, 61 * time.Minute, false},
	} {
		q := &controlv1.Request{Action: test.action, Time: timestamppb.New(now.Add(-test.ago))}
		if err := Outdated(q, now); err != nil != test.outdated {
			t.Errorf("%v of %v ago: %v", test.action, test.ago, err)
		}
	}
	if err := Outdated(&controlv1.Request{Action: controlv1.Action_ACTION_START}, now); err != nil {
		t.Errorf("without a time: %v", err)
	}
}

// Two who ask at once have numbers of their own.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	store := memkv.New().Store()
	write(t, store, stateKey(), &controlv1.RunState{Kind: "experiment", Request: 40})
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		seen = map[uint64]bool{}
	)
	for range 4 {
		all.Go(func() {
			n, err := Ask(t.Context(), store, subject, &controlv1.Request{Action: controlv1.Action_ACTION_START})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[n] = true
		})
	}
	all.Wait()
	for n := uint64(41); n <= 44; n++ {
		if !seen[n] {
			t.Errorf("nobody has number %d: %v", n, seen)
		}
	}
}

func TestAnswersAreAwaited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := memkv.New().Store()
		time.AfterFunc(3*time.Second, func() {
			write(t, store, stateKey()+"-other", &controlv1.RunState{Request: 9})
			write(t, store, stateKey(), &controlv1.RunState{Request: 1, Refusal: &controlv1.Refusal{Action: controlv1.Action_ACTION_START, Reason: "it is running already"}})
		})
		ctx, cancel := context.WithTimeout(t.Context(), Patience)
		defer cancel()
		before := time.Now()
		state, err := Await(ctx, store, subject, 1)
		if err != nil || Refused(state) != "start was refused: it is running already" || time.Since(before) != 3*time.Second {
			t.Errorf("%v, %v after %v", state, err, time.Since(before))
		}
		if state, err := Await(ctx, store, subject, 2); !errors.Is(err, context.DeadlineExceeded) || state.GetRequest() != 1 {
			t.Errorf("%v, %v", state, err)
		}
		away := errors.New("away")
		store.SetFault(memkv.Fault{Err: away})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Await(ctx, store, subject, 2); !errors.Is(err, away) {
			t.Errorf("%v", err)
		}
	})
}

// Who follows a state sees it change, also over an outage of the store, and is done when he
// has seen enough.
func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := memkv.New().Store()
		var seen []uint64
		see := func(s *controlv1.RunState) bool {
			if n := s.GetNumber(); len(seen) == 0 || seen[len(seen)-1] != n {
				seen = append(seen, n)
			}
			return s.GetPhase() == controlv1.Phase_PHASE_PROMOTED
		}
		time.AfterFunc(time.Second, func() {
			write(t, store, stateKey(), &controlv1.RunState{Number: 1})
		})
		time.AfterFunc(2*time.Second, func() { store.SetFault(memkv.Fault{Err: errors.New("away")}) })
		time.AfterFunc(3*time.Second, func() { store.SetFault(memkv.Fault{}) })
		time.AfterFunc(10*time.Second, func() {
			write(t, store, stateKey()+"-other", &controlv1.RunState{Number: 9, Phase: controlv1.Phase_PHASE_PROMOTED})
		})
		time.AfterFunc(20*time.Second, func() {
			write(t, store, stateKey(), &controlv1.RunState{Number: 2, Phase: controlv1.Phase_PHASE_PROMOTED})
		})
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		if last, err := Follow(ctx, store, subject, see); !errors.Is(err, context.DeadlineExceeded) || last.GetNumber() != 1 {
			t.Errorf("before it is over: %v, %v", last, err)
		}
		if last, err := Follow(t.Context(), store, subject, see); err != nil || last.GetNumber() != 2 {
			t.Errorf("%v, %v", last, err)
		}
		if want := []uint64{0, 1, 2}; !slices.Equal(seen, want) {
			t.Errorf("seen %v, not %v", seen, want)
		}
		store.SetFault(memkv.Fault{Err: kv.ErrDenied})
		if _, err := Follow(t.Context(), store, subject, see); !errors.Is(err, kv.ErrDenied) {
			t.Errorf("who may not look hears %v", err)
		}
	})
}

// Whatever people say when they ask for something, that is no refusal.
func TestWhatIsSaidIsNoRefusal(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"", "stop was refused: no", "Ann: it was refused: "} {
		if got := Refused(&controlv1.RunState{Reason: reason}); got != "" {
			t.Errorf("%q: %q", reason, got)
		}
	}
}

func TestStatesAndHistory(t *testing.T) {
	t.Parallel()
	store := memkv.New().Store()
	if s, err := State(t.Context(), store, subject); s != nil || err != nil {
		t.Errorf("%v, %v of nothing", s, err)
	}
	write(t, store, stateKey(), &controlv1.RunState{Kind: "experiment", Service: "shop", Name: "checkout", Number: 2})
	write(t, store, control.StateKey(control.Experiment, "mallory", "x"), &controlv1.RunState{Kind: "experiment", Service: "shop", Name: "checkout", Number: 99})
	write(t, store, control.StateKey(control.Canary, "shop", "c"), &controlv1.RunState{Kind: "canary"})
	for n := uint64(1); n <= 2; n++ {
		write(t, store, control.TransitionKey(subject.Kind, subject.Service, subject.Name, n), &controlv1.Transition{State: &controlv1.RunState{Number: n}})
	}
	states, err := States(t.Context(), store, control.Experiment)
	if err != nil || len(states) != 1 || states[0].GetNumber() != 2 {
		t.Errorf("%v, %v", states, err)
	}
	history, err := History(t.Context(), store, subject)
	if err != nil || len(history) != 2 || history[0].GetState().GetNumber() != 1 {
		t.Errorf("%v, %v", history, err)
	}
	if s, err := State(t.Context(), store, subject); s.GetNumber() != 2 || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}

// A refusal says what was refused, to whom, why and when, in text that may be shown.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for action, want := range map[controlv1.Action]string{
		controlv1.Action_ACTION_START:         "start was refused: it\u2026 is: running",
		controlv1.Action_ACTION_PROMOTE_FULLY: "promote --fully was refused: it\u2026 is: running",
		controlv1.Action(77):                  "action 77 was refused: it\u2026 is: running",
	} {
		at := time.Unix(1, 0)
		got := Refusal(&controlv1.Request{Action: action, Author: "ann\x1b[1m"}, errors.New("it\u2026 is:\x1b running"), at)
		if said := Refused(&controlv1.RunState{Refusal: got}); said != want {
			t.Errorf("%v: %q", action, said)
		}
		if got.GetAuthor() != "ann [1m" || !got.GetTime().AsTime().Equal(at) {
			t.Errorf("%v: %v", action, got)
		}
	}
	if n := len(Refusal(&controlv1.Request{}, errors.New(strings.Repeat("x", 1<<20)), time.Now()).GetReason()); n > 1000 {
		t.Errorf("a reason has %d bytes", n)
	}
}
