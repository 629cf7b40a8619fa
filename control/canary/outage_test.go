package canary

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	running    = controlv1.Phase_PHASE_RUNNING
	promoted   = controlv1.Phase_PHASE_PROMOTED
	rolledBack = controlv1.Phase_PHASE_ROLLED_BACK
)

var errAway = errors.New("the store is away")

// While the store is away a canary stays at its step, and goes on when the store is back:
// the next step lasts from then on.
func TestStoreAwayAtAStepsEnd(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]memkv.Fault{
		"nothing gets there": {Err: errAway},
		"the answer is lost": {Err: errAway, Unheard: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				defer w.end()
				w.elect(nil)
				w.start(canary(stepOf(1000, 10*time.Second), stepOf(5000, 10*time.Second)))
				w.load(200, 0, 5*time.Second)
				w.fault(f)
				w.load(200, 0, 10*time.Second)
				for _, s := range w.sidecars {
					if _, weight := s.holds(); weight != 1000 {
						t.Errorf("%s gives the canary %d while the store is away", s.id, weight)
					}
				}
				if e := w.elected.leading.Evidence("greeter-v2"); !strings.HasPrefix(e.GetWaiting(), "the store, which is away: ") {
					t.Errorf("it waits for %q", e.GetWaiting())
				}
				w.fault(memkv.Fault{})
				mended := time.Now()
				w.until(5*time.Second, "the second step", w.stateIs(running, 2))
				since := w.state("greeter-v2").GetStepSince().AsTime()
				if early := mended.Sub(since); early > 0 && !f.Unheard {
					t.Errorf("the second step began %v before the store was back", early)
				}
				w.load(200, 0, 15*time.Second)
				if !w.stateIs(promoted, 2)() {
					t.Errorf("it stands at %v", w.state("greeter-v2"))
				}
				if n := len(w.history("greeter-v2")); n != 3 {
					t.Errorf("the history has %d entries: %v", n, w.history("greeter-v2"))
				}
			})
		})
	}
}

// A canary that is found worse while the store is away is rolled back everywhere at once,
// and that is written when the store is back: by whoever decided it, or by who is elected
// after them, also where that one is told before it knows of any canary.
func TestRollBackWithoutTheStore(t *testing.T) {
	t.Parallel()
	const eagerly = "it dies, and the next is told at once"
	for name, dies := range map[string]bool{"the elected one lives": false, "it dies": true, eagerly: true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5)
				defer w.end()
				w.eager = name == eagerly
				w.elect(nil)
				w.start(canary(stepOf(2000, time.Minute), stepOf(5000, time.Minute)))
				w.load(200, 0, 5*time.Second)
				w.fault(memkv.Fault{Err: errAway})
				b := failingShare(0.3)
				w.behave.Store(&b)
				w.load(200, 0, 3*time.Second)
				for _, s := range w.sidecars {
					if _, weight := s.holds(); weight != 0 {
						t.Errorf("%s still gives the canary %d", s.id, weight)
					}
				}
				_, v2, _ := w.counts()
				if dies {
					w.kill()
				}
				w.load(200, 0, 5*time.Second)
				if dies {
					w.elect(nil)
				}
				w.fault(memkv.Fault{})
				w.until(10*time.Second, "the roll-back to be written", w.stateIs(rolledBack, 1))
				w.load(200, 0, 5*time.Second)
				if _, now, _ := w.counts(); now != v2 {
					t.Errorf("after the roll-back the canary got %d RPCs", now-v2)
				}
				if why := w.state("greeter-v2").GetReason(); !strings.HasPrefix(why, "errors/against_stable: ") {
					t.Errorf("because %q", why)
				}
			})
		})
	}
}

// Who is elected in the middle of a step goes on where it was: the hold is not begun anew,
// and what was counted before counts.
func TestTakeover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.elect(nil)
		w.start(canary(stepOf(1000, 20*time.Second), stepOf(5000, 20*time.Second), stepOf(10000, 20*time.Second)))
		began := time.Now()
		w.load(60, 0, 10*time.Second)
		w.kill()
		w.load(60, 0, 5*time.Second)
		w.elect(nil)
		w.load(60, 0, 7*time.Second)
		if !w.stateIs(running, 2)() {
			t.Fatalf("after 22 s it stands at %v", w.state("greeter-v2"))
		}
		if since := w.state("greeter-v2").GetStepSince().AsTime().Sub(began); since < 19*time.Second || since > 21*time.Second {
			t.Errorf("the second step began after %v", since)
		}
		if n := w.state("greeter-v2").GetTally().GetCanaryRpcs(); n < 20*18*8/10 {
			t.Errorf("of the first step's RPCs to the canary %d are known", n)
		}
		w.kill()
		w.load(60, 0, 5*time.Second) // and nobody is elected
		w.elect(nil)
		w.load(60, 0, 60*time.Second)
		if !w.stateIs(promoted, 3)() {
			t.Errorf("it stands at %v", w.state("greeter-v2"))
		}
		if n := len(w.history("greeter-v2")); n != 4 {
			t.Errorf("the history has %d entries", n)
		}
	})
}

// Evidence of a little in each step comes together over steps and over who is elected.
func TestEvidenceGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.end()
		w.elect(nil)
		c := canary(stepOf(2000, 15*time.Second), stepOf(2000, 15*time.Second), stepOf(2000, 15*time.Second), stepOf(2000, 15*time.Second), stepOf(2000, time.Hour))
		c.Guards.Latency = nil
		w.start(c)
		b := failingShare(0.012) // of v1 0.001
		w.behave.Store(&b)
		var least float64 = 1
		for range 5 {
			w.load(40, 0, 15*time.Second)
			if w.state("greeter-v2").GetPhase() == rolledBack {
				break
			}
			g := w.elected.leading.Evidence("greeter-v2").GetGuards()
			if len(g) != 1 || g[0].GetP() > least*1.0001 {
				t.Fatalf("the evidence became less: %v, it was %v", g, least)
			}
			least = g[0].GetP()
			w.kill()
			w.elect(nil)
		}
		w.load(40, 0, 60*time.Second)
		if s := w.state("greeter-v2"); s.GetPhase() != rolledBack || s.GetStep() < 2 {
			t.Errorf("it stands at %v", s)
		}
	})
}

// The last transition of a run is told of though nobody is needed any more as soon as the
// store has it.
func TestLastTransitionIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.end()
		w.elect(nil)
		w.start(canary(stepOf(5000, time.Second)))
		metrics := &Metrics{}
		w.kill()
		store := w.memory.Store()
		store.SetFault(memkv.Fault{Slow: 20 * time.Millisecond})
		l := Lead(LeadOptions{ID: "last", Metrics: metrics})(t.Context(), service, store, func(*meshv1.ReportResponse) {})
		w.ask("greeter-v2", controlv1.Action_ACTION_PROMOTE_FULLY)
		for !w.stateIs(promoted, 1)() {
			time.Sleep(time.Millisecond)
		}
		l.Close()
		if err := testutil.CollectAndCompare(metrics, strings.NewReader(`
# HELP pillion_canary_transitions_total Transitions of canaries that this sidecar decided, by the phase that they led to.
# TYPE pillion_canary_transitions_total counter
pillion_canary_transitions_total{canary="greeter-v2",phase="promoted",service="greeter"} 1
`)); err != nil {
			t.Error(err)
		}
	})
}
