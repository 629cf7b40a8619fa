package canary

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/requests"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// While most RPCs of both versions fail no canary goes on by itself, though it is no worse;
// a shift does, and so does a canary that may fail as often.
func TestOutageHolds(t *testing.T) {
	t.Parallel()
	down := behaviour(func(r *rand.Rand, _, _ string) (codes.Code, time.Duration) {
		if r.Float64() < 0.8 {
			return codes.Unavailable, time.Millisecond
		}
		return codes.OK, time.Millisecond
	})
	shift, tolerant := canary(), canary()
	shift.Guards = nil
	tolerant.Guards = &configv1.CanaryGuards{Errors: []*configv1.ErrorGuard{{Max: new(0.9)}}}
	for name, test := range map[string]struct {
		canary *configv1.Canary
		stays  bool
	}{"guarded": {canary(), true}, "shift": {shift, false}, "may fail": {tolerant, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				defer w.end()
				w.behave.Store(&down)
				w.elect(nil)
				c := test.canary
				c.Steps = []*configv1.CanaryStep{stepOf(5000, 10*time.Second), stepOf(10000, time.Minute)}
				w.start(c)
				w.load(100, 0, 20*time.Second)
				s, e := w.state(c.GetName()), w.elected.leading.Evidence(c.GetName())
				if s.GetPhase() != running || s.GetStep() == 1 != test.stays || strings.Contains(e.GetWaiting(), "an outage to be over: ") != test.stays {
					t.Fatalf("it stands at %v, and waits for %q", s, e.GetWaiting())
				}
				if !test.stays {
					return
				}
				good := failingShare(0)
				w.behave.Store(&good)
				w.load(100, 0, 25*time.Second)
				if s := w.state(c.GetName()); s.GetPhase() != running || s.GetStep() != 2 {
					t.Errorf("after the outage it stands at %v", s)
				}
			})
		})
	}
}

// Nobody can report so much that sums run over, and guards see nothing any more.
func TestSumsDoNotRunOver(t *testing.T) {
	t.Parallel()
	p := newPool(1, 1)
	most := &meshv1.GroupCounts{Codes: map[uint32]uint64{}, Buckets: map[uint32]uint64{}}
	for i := range uint32(17) {
		most.Codes[i], most.Buckets[i] = 1<<50, 1<<50
	}
	refused := 0
	for i := range maxSources {
		if err := p.take(source{"mallory", uint64(i)}, &meshv1.CanaryCounts{Stable: most, Canary: most}); err != nil {
			refused++
		}
	}
	if n := p.total.canary.RPCs(); refused == 0 || n < 1<<50 || n > maxPooled {
		t.Errorf("%d were refused, and %d RPCs are counted", refused, n)
	}
	if err := p.take(source{"bob", 1}, &meshv1.CanaryCounts{Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{13: 7}}}); err != nil {
		t.Errorf("others do not count any more: %v", err)
	}
}

// What was asked long ago is not begun, and numbers that nobody counts to are none.
func TestOldAndEndlessRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.end()
		c := canary(stepOf(5000, time.Hour))
		w.apply(c)
		w.ask(c.GetName(), controlv1.Action_ACTION_START)
		time.Sleep(2 * time.Hour)
		w.elect(nil)
		w.until(time.Second, "the answer", func() bool { return w.state(c.GetName()).GetRequest() == 1 })
		if s := w.state(c.GetName()); s.GetRun() != 0 || !strings.Contains(requests.Refused(s), "ask again") {
			t.Errorf("it stands at %v", s)
		}
		key := control.RequestKey(control.Canary, service, c.GetName())
		w.put(key, &controlv1.Request{Number: 1<<64 - 1, Action: controlv1.Action_ACTION_START})
		time.Sleep(time.Second)
		if s := w.state(c.GetName()); s.GetNumber() != 1 {
			t.Errorf("it stands at %v", s)
		}
		w.put(key, &controlv1.Request{Number: 2, Action: controlv1.Action_ACTION_START})
		w.until(time.Second, "the start", w.stateIs(running, 1))
	})
}
