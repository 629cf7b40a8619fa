package outlier

import (
	"strings"
	"testing"
	"time"
)

func TestFailuresInARow(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 3)
	r.rpcs(0, 0, 4)
	r.rpcs(0, 1, 4)
	r.want("")
	r.rpcs(0, 0, 1)
	r.want("i0 ")
	e := r.events[0]
	if e.Kind != Ejected || e.Reason != ConsecutiveFailures || e.Why != "5 failures in a row" || e.For != 30*time.Second || e.Times != 1 {
		t.Errorf("the event is %+v", e)
	}
	r.rpcs(0, 0, 2) // that were under way
	r.pass(30*time.Second - 1)
	r.want("i0 ")
	r.pass(1)
	r.want("")
	if e := r.events[1]; e.Kind != Returned || e.For != 30*time.Second {
		t.Errorf("the event is %+v", e)
	}
	// What came before does not count.
	r.rpcs(0, 0, 4)
	r.want("")
}

func TestFailuresInARowDoNotMatter(t *testing.T) {
	t.Parallel()
	cfg := ejection()
	cfg.ConsecutiveFailures = 0
	r := newRig(t, cfg, 3)
	r.rpcs(0, 0, 1000)
	r.want("")
}

func TestTwoInstances(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 2)
	r.rpcs(0, 0, 5)
	r.want("i0 ")
	r.rpcs(1, 0, 100)
	r.want("i0 ") // the last is never ejected
	if e := r.events[len(r.events)-1]; e.Kind != Held || e.Host.Target != r.instances[1] {
		t.Errorf("the event is %+v", e)
	}
	r.pass(30 * time.Second)
	r.want("")
	// Now there is room, after as many failures more.
	r.rpcs(1, 0, 5)
	r.want("i1 ")
}

func TestOneInstanceAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 1)
	r.rpcs(0, 0, 1000)
	r.want("")
}

// When the only instance left cannot be used for another reason, one that is ejected
// is better than none.
func TestLastOneLeftGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 3)
	r.cfg = ejection()
	r.cfg.MaxPercent = 100
	r.configure()
	r.rpcs(1, 0, 5)
	r.now = r.now.Add(time.Second)
	r.rpcs(0, 0, 5)
	r.want("i0 i1 ")
	r.instances[2].unfit = true
	r.d.Tick(r.now)
	r.want("i0 ") // i1 has been away for longest
	if e := r.events[len(r.events)-1]; e.Kind != Returned || e.Why != "there is no other instance" {
		t.Errorf("the event is %+v", e)
	}
	r.rpcs(1, 0, 100)
	r.want("i0 ") // and stays
}

func TestRegistryTakesInstancesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 4)
	r.rpcs(0, 0, 5)
	r.rpcs(1, 0, 5)
	r.want("i0 i1 ")
	gone := r.instances[2:]
	r.instances = r.instances[:2]
	r.configure()
	if r.ejected() == "i0 i1 " || r.ejected() == "" {
		t.Fatalf("of two instances %q are ejected", r.ejected())
	}
	r.instances[0].unfit, r.instances[1].unfit = true, true // so that there would be room
	r.pass(time.Second)
	for _, i := range gone { // what they say now is nobody's business
		for range 10 {
			i.Record(r.now, true)
		}
		if i.blocked {
			t.Errorf("%s is ejected, and gone", i.name)
		}
	}
	r.instances[0].unfit, r.instances[1].unfit = false, false
	// An instance that goes while it is ejected is told so: it is counted no more.
	was := r.instances[1]
	r.instances = r.instances[:1]
	r.configure()
	if was.blocked || r.ejected() != "" {
		t.Errorf("of one instance %q are ejected; the one that went: %v", r.ejected(), was.blocked)
	}
}

// Registry updates and changes of the rules leave what is known as it is.
func TestStateOutlivesUpdates(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 3)
	r.rpcs(0, 0, 5)
	r.rpcs(1, 0, 3)
	r.pass(5 * time.Second)
	r.add()
	r.configure()
	r.want("i0 ")
	r.cfg = ejection()
	r.cfg.BaseTime = time.Minute
	r.configure()
	r.rpcs(1, 0, 2)
	r.want("i0 i1 ")
	r.pass(25 * time.Second)
	r.want("i1 ") // i0 by the rules that it was ejected by
	r.cfg = nil
	r.configure()
	r.want("")
	if next := r.d.Tick(r.now); !next.IsZero() {
		t.Errorf("without a policy something is due at %v", next)
	}
	r.rpcs(0, 0, 100)
	r.want("")
}

// An instance is left alone for longer each time, and for less again as it stays
// well (gRFC A50's multiplier).
func TestMultiplier(t *testing.T) {
	t.Parallel()
	cfg := ejection()
	cfg.BaseTime, cfg.MaxTime = 10*time.Second, 35*time.Second
	r := newRig(t, cfg, 3)
	for times, want := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second, 35 * time.Second, 35 * time.Second} {
		r.now = r.now.Add(time.Second)
		r.rpcs(0, 0, 5)
		e := r.events[len(r.events)-1]
		if e.Kind != Ejected || e.For != want || e.Times != times+1 {
			t.Fatalf("ejection %d: %+v, want %v", times+1, e, want)
		}
		// To its end, but not to an interval's, so that nothing decays.
		r.now = r.now.Add(want)
		r.d.mu.Lock()
		r.d.sweepAt = r.now.Add(time.Second)
		r.d.mu.Unlock()
		r.d.Tick(r.now)
		r.want("")
	}
	r.pass(35 * time.Second) // four intervals end
	if got := r.instances[0].Status().Times; got != 1 {
		t.Fatalf("after four intervals the multiplier is %d, want 1", got)
	}
	r.rpcs(0, 0, 5)
	if e := r.events[len(r.events)-1]; e.For != 20*time.Second {
		t.Errorf("then it is ejected for %v, want 20s", e.For)
	}
}

// The multiplier does not decay while the instance is ejected, nor overflow.
func TestMultiplierBounds(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 3)
	r.instances[0].multiplier = 1 << 30
	r.rpcs(0, 0, 5)
	if e := r.events[0]; e.For != 300*time.Second {
		t.Fatalf("it is ejected for %v", e.For)
	}
	r.pass(100 * time.Second)
	if got := r.instances[0].Status().Times; got != 1<<30+1 {
		t.Errorf("the multiplier is %d", got)
	}
}

func TestMaxPercent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ instances, percent, unfit, want int }{
		{10, 50, 0, 5},
		{10, 50, 2, 4}, // of the 8 that could be used
		{10, 49, 0, 4},
		{10, 100, 0, 9},
		{10, 0, 0, 1},
		{10, 10, 0, 1},
		{3, 50, 0, 1},
		{3, 67, 0, 2},
		{2, 100, 0, 1},
		{2, 1, 0, 1},
		{2, 100, 1, 0},
	} {
		cfg := ejection()
		cfg.MaxPercent = tc.percent
		r := newRig(t, cfg, tc.instances)
		for i := range tc.unfit {
			r.instances[i].unfit = true
		}
		for i := range r.instances {
			r.now = r.now.Add(time.Second)
			r.rpcs(i, 0, 5)
		}
		if got := strings.Count(r.ejected(), "i"); got != tc.want {
			t.Errorf("%+v: %d are ejected", tc, got)
		}
	}
}

// Where there is no room, and everything fails, it is not looked for each time.
func TestNoRoomIsBelieved(t *testing.T) {
	t.Parallel()
	r := newRig(t, ejection(), 2)
	r.rpcs(0, 0, 5)
	r.rpcs(1, 0, 5000)
	if n := len(r.events); n != 2 {
		t.Fatalf("%d events: %+v", n, r.events)
	}
	r.now = r.now.Add(fullFor)
	r.rpcs(1, 0, 5)
	if n := len(r.events); n != 3 {
		t.Fatalf("%d events: %+v", n, r.events)
	}
}

// An interval that is under way when the rules change counts for the new one.
func TestIntervalOutlivesRules(t *testing.T) {
	t.Parallel()
	r := newRig(t, byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 1, RequestVolume: 5}), 2)
	r.spread(0, 0, 10)
	r.pass(8 * time.Second)
	r.cfg = byFailurePercentage(*r.cfg.FailurePercentage)
	r.cfg.Interval = 12 * time.Second
	r.configure()
	r.pass(4*time.Second - 1)
	r.want("")
	r.pass(1)
	r.d.Tick(r.now)
	r.want("i0 ")
}
