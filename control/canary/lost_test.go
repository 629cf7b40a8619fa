package canary

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// forget has the store lose what is below prefixes. Sidecars keep what they know, as
// package follow has them do.
func (w *world) forget(prefixes ...string) {
	w.t.Helper()
	for _, s := range w.sidecars {
		s.keeps.Store(true)
	}
	for _, prefix := range prefixes {
		list, err := w.people.List(w.ctx, prefix)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range list {
			if err := w.people.Commit(w.ctx, kv.Op{Key: e.Key, Any: true}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// A run of which the store has lost all goes on, is written again, and counted on from
// there, whether who is elected knew it or hears of it of its own sidecar.
func TestStoreLosesARun(t *testing.T) {
	t.Parallel()
	for name, another := range map[string]bool{"under who is elected": false, "before another is": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				defer w.end()
				w.known = w.sidecars[0].agent.Known
				w.elect(nil)
				w.start(canary(stepOf(1000, 10*time.Second), stepOf(5000, 30*time.Second)))
				w.load(200, 0, 12*time.Second)
				before := w.state("greeter-v2")
				if before.GetStep() != 2 {
					t.Fatalf("it stands at %v", before)
				}
				if another {
					w.kill()
				}
				w.forget(control.Root)
				if another {
					w.elect(nil)
				}
				w.until(time.Second, "it to be written again", w.stateIs(running, 2))
				s := w.state("greeter-v2")
				if s.GetNumber() != before.GetNumber()+1 || s.GetRun() != 1 || s.GetRequest() != 0 || s.GetWeight() != 5000 || !s.GetStepSince().AsTime().Equal(before.GetStepSince().AsTime()) {
					t.Errorf("%v was written in place of %v", s, before)
				}
				w.load(200, 0, 5*time.Second)
				for _, s := range w.sidecars {
					if state, weight := s.holds(); weight != 5000 || state.GetNumber() != before.GetNumber()+1 {
						t.Errorf("%s gives the canary %d by %v", s.id, weight, state)
					}
				}
				// What people ask counts from 1 again.
				if n := w.ask("greeter-v2", controlv1.Action_ACTION_ABORT); n != 1 {
					t.Fatalf("request %d", n)
				}
				w.until(time.Second, "the request to be done", w.stateIs(controlv1.Phase_PHASE_ABORTED, 2))
			})
		})
	}
}

// Who is elected after the store has lost all, and has heard of nothing, does not have
// sidecars obey a run that others report of. What is begun anew comes after it, though: all
// obey it, and what had become of the other does not end it.
func TestWhoKnowsNothingCountsOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.elect(nil)
		c := canary(stepOf(1000, time.Hour))
		w.start(c)
		w.ask(c.GetName(), controlv1.Action_ACTION_ABORT)
		w.until(time.Second, "the end", w.stateIs(controlv1.Phase_PHASE_ABORTED, 1))
		w.kill()
		w.forget(control.Root)
		w.elect(nil)
		time.Sleep(time.Second)
		if s := w.state(c.GetName()); s != nil {
			t.Fatalf("%v was written", s)
		}
		w.start(c)
		time.Sleep(time.Second)
		s := w.state(c.GetName())
		if s.GetPhase() != running || s.GetNumber() <= 2 || s.GetRun() != 2 {
			t.Errorf("it stands at %v", s)
		}
		for _, one := range w.sidecars {
			if state, weight := one.holds(); weight != 1000 || state.GetNumber() != s.GetNumber() {
				t.Errorf("%s gives the canary %d by %v", one.id, weight, state)
			}
		}
	})
}

// The same where sidecars say so only after the run was begun.
func TestWhoHearsLateCountsOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.elect(nil)
		c := canary(stepOf(1000, time.Hour))
		w.start(c)
		w.ask(c.GetName(), controlv1.Action_ACTION_ABORT)
		w.until(time.Second, "the end", w.stateIs(controlv1.Phase_PHASE_ABORTED, 1))
		w.happen(nobodyHears)
		w.kill()
		w.forget(control.Root)
		w.elect(nil)
		w.start(c)
		time.Sleep(time.Second)
		if s := w.state(c.GetName()); s.GetNumber() != 1 || s.GetRun() != 1 {
			t.Fatalf("it stands at %v", s)
		}
		w.happen(allHear)
		time.Sleep(time.Second)
		s := w.state(c.GetName())
		if s.GetPhase() != running || s.GetNumber() <= 2 || s.GetRun() != 2 {
			t.Errorf("it stands at %v", s)
		}
		for _, one := range w.sidecars {
			if state, weight := one.holds(); weight != 1000 || state.GetNumber() != s.GetNumber() {
				t.Errorf("%s gives the canary %d by %v", one.id, weight, state)
			}
		}
	})
}

// gated has a commit wait.
type gated struct {
	kv.Store
	once       sync.Once
	came, gate chan struct{}
}

func (g *gated) Commit(ctx context.Context, ops ...kv.Op) error {
	g.once.Do(func() { close(g.came) })
	<-g.gate
	return g.Store.Commit(ctx, ops...)
}

// Who is deposed between reading and writing begins no second canary beside the one that
// another has begun.
func TestDeposedBeginsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.end()
		lock := control.LeaderKey(service)
		w.fence = func(store kv.Store) kv.Store {
			session, err := store.Session(w.ctx, kv.SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := session.TryLock(w.ctx, lock, []byte("{}")); !got || err != nil {
				t.Fatal(got, err)
			}
			w.running.Go(func() { <-w.ctx.Done(); _ = session.Close(context.Background()) })
			return kv.Fence(store, lock, session)
		}
		held := w.fence
		slow := &gated{came: make(chan struct{}), gate: make(chan struct{})}
		w.fence = func(store kv.Store) kv.Store { slow.Store = held(store); return slow }
		w.elect(nil)
		old := w.elected
		first, second := canary(stepOf(1000, time.Hour)), canary(stepOf(1000, time.Hour))
		first.Name = "greeter-v3"
		w.apply(first)
		w.ask("greeter-v3", controlv1.Action_ACTION_START)
		<-slow.came // it has read that nothing runs, and is about to write
		if err := w.people.Commit(w.ctx, kv.Op{Key: lock, Any: true}, kv.Op{Key: control.RequestKey(control.Canary, service, "greeter-v3"), Any: true}); err != nil {
			t.Fatal(err)
		}
		w.fence = held
		w.elect(nil)
		w.start(second)
		close(slow.gate)
		time.Sleep(time.Second)
		if s := w.state("greeter-v3"); s != nil || !w.stateIs(running, 1)() {
			t.Errorf("two canaries of the service are at %v and %v", s, w.state("greeter-v2"))
		}
		old.cancel()
		old.leading.Close()
	})
}
