package canary

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
