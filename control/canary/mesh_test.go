package canary

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// A version of which a tenth of the RPCs fail gets none any more soon after it got some,
// everywhere, and callers hardly see it.
func TestFailingCanary(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		away    bool // the store and the elected sidecar are, when it begins to fail
		weight  uint32
		seconds float64 // until the last RPC goes there
	}{
		"all is well":   {false, 1000, 2},
		"half the RPCs": {false, 5000, 1},
		"all are away":  {true, 1000, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5)
				defer w.end()
				w.elect(nil)
				w.start(canary(stepOf(tt.weight, time.Minute)))
				w.load(200, 0, 10*time.Second)
				if _, v2, _ := w.counts(); v2 < 500 {
					t.Fatalf("%d RPCs went to the canary", v2)
				}
				if tt.away {
					w.kill()
					for _, s := range w.sidecars {
						s.store.Kill()
					}
				}
				v1, v2, failed := w.counts()
				b := failingShare(0.1)
				w.behave.Store(&b)
				began := time.Now()
				w.load(200, 0, 20*time.Second)
				var last time.Time
				for _, s := range w.sidecars {
					if at := time.Unix(0, s.lastCanary.Load()); at.After(last) {
						last = at
					}
				}
				t.Logf("the last RPC was after %v", last.Sub(began))
				if took := last.Sub(began).Seconds(); took > tt.seconds {
					t.Errorf("the canary had its last RPC after %v s: %v", took, w.state("greeter-v2"))
				}
				a, b2, f := w.counts()
				if all, bad := a-v1+b2-v2, f-failed; float64(bad) > 0.01*float64(all) {
					t.Errorf("%d of %d RPCs failed", bad, all)
				}
				if s := w.state("greeter-v2"); !tt.away && (s.GetPhase() != controlv1.Phase_PHASE_ROLLED_BACK || s.GetWeight() != 0 ||
					!strings.Contains(s.GetReason(), "errors/against_stable: ")) {
					t.Errorf("it stands at %v", s)
				}
			})
		})
	}
}

// stateIs says whether the store's state of the canary is this.
func (w *world) stateIs(phase controlv1.Phase, step uint32) func() bool {
	return func() bool {
		s := w.state("greeter-v2")
		return s.GetPhase() == phase && s.GetStep() == step
	}
}

// A version that is only slower is found out, one that is as quick is not.
func TestSlowerCanary(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		times float64
		want  controlv1.Phase
	}{
		"twice as slow": {2, controlv1.Phase_PHASE_ROLLED_BACK},
		"just as quick": {1, controlv1.Phase_PHASE_RUNNING},
		"hardly slower": {1.1, controlv1.Phase_PHASE_RUNNING}, // 1.25 times is allowed
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				defer w.end()
				w.elect(nil)
				quick := failingShare(0.001)
				b := behaviour(func(r *rand.Rand, version, key string) (codes.Code, time.Duration) {
					code, took := quick(r, version, key)
					if version == "v2" {
						took = time.Duration(float64(took) * tt.times)
					}
					return code, took
				})
				w.behave.Store(&b)
				w.start(canary(stepOf(1000, 10*time.Minute)))
				began := time.Now()
				w.load(200, 0, 30*time.Second)
				s := w.state("greeter-v2")
				if s.GetPhase() != tt.want {
					t.Errorf("it stands at %v", s)
				}
				if tt.want == controlv1.Phase_PHASE_ROLLED_BACK {
					if took := s.GetSince().AsTime().Sub(began); took > 10*time.Second {
						t.Errorf("it took %v", took)
					}
					if !strings.HasPrefix(s.GetReason(), "latency/against_stable: 99 % of the canary's ") {
						t.Errorf("because %q", s.GetReason())
					}
				}
			})
		})
	}
}

// Without RPCs a canary stays where it is for ever, and says why; with just enough it goes
// on.
func TestCanaryWithoutTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.end()
		w.elect(nil)
		w.start(canary(stepOf(5000, time.Minute)))
		time.Sleep(3 * time.Minute)
		if !w.stateIs(controlv1.Phase_PHASE_RUNNING, 1)() {
			t.Fatalf("after three minutes without RPCs: %v", w.state("greeter-v2"))
		}
		e := w.elected.leading.Evidence("greeter-v2")
		if e.GetWaiting() != "100 of the canary's RPCs, there were 0" || e.GetNext() != nil {
			t.Errorf("it waits for %v", e)
		}
		w.load(100, 0, 5*time.Second)
		if !w.stateIs(controlv1.Phase_PHASE_PROMOTED, 1)() {
			t.Errorf("with 1000 RPCs: %v", w.state("greeter-v2"))
		}
		if e := w.elected.leading.Evidence("none"); e != nil {
			t.Errorf("of a canary that there is not: %v", e)
		}
	})
}

// A good version goes from step to step until it has all RPCs, each step takes its time,
// and the history says all that.
func TestGoodCanary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.elect(nil)
		began := time.Now()
		w.start(canary(stepOf(1000, 20*time.Second), stepOf(5000, 20*time.Second), stepOf(10000, 20*time.Second)))
		w.load(60, 0, 65*time.Second)
		if !w.stateIs(controlv1.Phase_PHASE_PROMOTED, 3)() {
			t.Fatalf("it stands at %v", w.state("greeter-v2"))
		}
		list := w.history("greeter-v2")
		var story []string
		for i, one := range list {
			s := one.GetState()
			story = append(story, fmt.Sprintf("%d %s %d", s.GetStep(), control.PhaseWord(s.GetPhase()), s.GetWeight()))
			at := s.GetSince().AsTime().Sub(began)
			if want := time.Duration(i) * 20 * time.Second; at < want || at > want+time.Second {
				t.Errorf("transition %d was after %v", i+1, at)
			}
			if s.GetNumber() != uint64(i+1) || s.GetDocument() != nil {
				t.Errorf("transition %d is %v", i+1, s)
			}
		}
		if got, want := strings.Join(story, ", "), "1 running 1000, 2 running 5000, 3 running 10000, 3 promoted 10000"; got != want {
			t.Errorf("the history is %s", got)
		}
		v1, v2, _ := w.counts()
		w.load(60, 0, time.Second)
		if more, canary, _ := w.counts(); more != v1 || canary == v2 {
			t.Errorf("after the promotion %d RPCs went to the stable version, %d to the canary", more-v1, canary-v2)
		}
		tally := list[3].GetState().GetTally()
		// Those of the last five seconds came after the promotion.
		if n := int64(tally.GetCanaryRpcs()); n < (v2-5*180)*98/100 || n > v2-4*180 || tally.GetSidecars() != 3 {
			t.Errorf("of %d RPCs of the canary the tally knows %v", v2, tally)
		}
		// Promoted is not for ever: abort takes it back.
		w.ask("greeter-v2", controlv1.Action_ACTION_ABORT)
		w.until(time.Second, "the abort", w.stateIs(controlv1.Phase_PHASE_ABORTED, 3))
		_, v2, _ = w.counts()
		w.load(60, 0, time.Second)
		if _, now, _ := w.counts(); now != v2 {
			t.Errorf("after an abort %d RPCs went to the canary", now-v2)
		}
	})
}

// People may pause, resume, promote, abort and start; each is done once, and what cannot be
// is refused with a reason.
func TestRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.end()
		w.elect(nil)
		do := func(action controlv1.Action, phase controlv1.Phase, step uint32, reason string) {
			t.Helper()
			before, at := w.state("greeter-v2"), time.Now()
			n := w.ask("greeter-v2", action)
			w.until(2*time.Second, "the request to be done", func() bool { return w.state("greeter-v2").GetRequest() == n })
			var s *controlv1.RunState // just after the request: it may have gone on since
			for _, one := range slices.Backward(w.history("greeter-v2")) {
				if one.GetState().GetRequest() == n {
					s = one.GetState()
				}
			}
			said, by := s.GetReason(), s.GetBy()
			if s.GetRefusal() != nil { // which leaves alone what the state says of itself
				said, by = requests.Refused(s), s.GetRefusal().GetAuthor()
				if s.GetReason() != before.GetReason() || s.GetBy() != before.GetBy() || s.GetRefusal().GetTime().AsTime().Before(at) {
					t.Errorf("%v was refused of %v: %v", action, before, s)
				}
			}
			if s.GetPhase() != phase || s.GetStep() != step || said != reason || by != "ann" {
				t.Errorf("after %v: %v", action, s)
			}
		}
		const (
			none     = controlv1.Phase_PHASE_UNSPECIFIED
			running  = controlv1.Phase_PHASE_RUNNING
			paused   = controlv1.Phase_PHASE_PAUSED
			promoted = controlv1.Phase_PHASE_PROMOTED
			aborted  = controlv1.Phase_PHASE_ABORTED
			start    = controlv1.Action_ACTION_START
			promote  = controlv1.Action_ACTION_PROMOTE
			pause    = controlv1.Action_ACTION_PAUSE
			resume   = controlv1.Action_ACTION_RESUME
			abort    = controlv1.Action_ACTION_ABORT
			fully    = controlv1.Action_ACTION_PROMOTE_FULLY
		)
		do(start, none, 0, "start was refused: there is no such document any more")
		do(pause, none, 0, "pause was refused: it is not started")
		manual := stepOf(5000, 0)
		manual.Manual = true
		c := canary(stepOf(1000, 0), manual, stepOf(10000, time.Second))
		w.apply(c)
		do(start, running, 1, "start")
		do(start, running, 1, "start was refused: it is running already")
		do(resume, running, 1, "resume was refused: it is running")
		do(pause, paused, 1, "pause")
		do(pause, paused, 1, "pause was refused: it is paused")
		w.load(500, 0, 10*time.Second) // which is enough for the step to be over
		if !w.stateIs(paused, 1)() {
			t.Errorf("a canary that is paused is at %v", w.state("greeter-v2"))
		}
		do(resume, running, 1, "resume")
		w.until(time.Second, "the second step", w.stateIs(running, 2))
		w.load(500, 0, 10*time.Second)
		if !w.stateIs(running, 2)() {
			t.Errorf("a step that ends by hand is at %v", w.state("greeter-v2"))
		}
		// A document that is changed in a run changes nothing in the run.
		changed := proto.CloneOf(c)
		changed.Steps = changed.Steps[:1]
		w.apply(changed)
		// Another canary of the service has to wait.
		other := canary(stepOf(1000, 0))
		other.Name = "other"
		w.apply(other)
		n := w.ask("other", start)
		w.until(time.Second, "the other to be refused", func() bool { return w.state("other").GetRequest() == n })
		if why := requests.Refused(w.state("other")); why != `start was refused: the canary "greeter-v2" of this service runs, and only one can` {
			t.Errorf("the other was refused because %q", why)
		}
		do(promote, running, 3, "promote")
		do(fully, promoted, 3, "promote --fully")
		do(promote, promoted, 3, "promote was refused: it is promoted")
		do(abort, aborted, 3, "abort")
		do(abort, aborted, 3, "abort was refused: it is aborted")
		do(start, running, 1, "start")
		if s := w.state("greeter-v2"); s.GetRun() != 2 {
			t.Errorf("the second run is %v", s)
		}
		do(abort, aborted, 1, "abort")
		if n := len(w.history("greeter-v2")); uint64(n) != w.state("greeter-v2").GetNumber() {
			t.Errorf("%d transitions are kept of %d", n, w.state("greeter-v2").GetNumber())
		}
	})
}
