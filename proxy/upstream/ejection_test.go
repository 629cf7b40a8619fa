package upstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/outlier"
)

func TestEjection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Ejection: ejection()})
		a, b := r.instance("a:1"), r.instance("b:1")
		rpcs(a, 4, codes.Unavailable)
		a.want(t, 0, true)
		rpcs(a, 1, codes.Internal)
		a.want(t, Ejected, false)
		r.gauges(1, 0, 0)
		for range 10 {
			if in, ok := r.cluster.Pick(nil); !ok || in != b {
				t.Fatalf("%v is picked", in)
			}
		}
		// Not all are ejected, however much fails.
		rpcs(b, 100, codes.Unavailable)
		b.want(t, 0, true)
		time.Sleep(30*time.Second - 1)
		a.want(t, Ejected, false)
		time.Sleep(1)
		a.want(t, 0, true)
		r.gauges(0, 0, 0)
		j := &r.counts.Judgement
		if n := j.Ejections[outlier.ConsecutiveFailures].Load(); n != 1 || j.EjectionsHeld.Load() == 0 || !j.InForce.Load() {
			t.Errorf("%d ejections, %d held, in force %v", n, j.EjectionsHeld.Load(), j.InForce.Load())
		}
	})
}

// An instance returns when its time is over, not at the end of an interval.
func TestEjectionEndsInTime(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		cfg := ejection()
		cfg.BaseTime = 3 * time.Second
		r.cluster.Configure(&Policy{Ejection: cfg})
		time.Sleep(time.Second)
		rpcs(r.instance("a:1"), 5, codes.Unavailable)
		time.Sleep(3*time.Second - 1)
		r.instance("a:1").want(t, Ejected, false)
		time.Sleep(1)
		r.instance("a:1").want(t, 0, true)
		if n := len(r.counts.Judgement.Ejections); n != int(outlier.NumReasons) {
			t.Errorf("%d reasons are counted, of %d", n, outlier.NumReasons)
		}
	})
}

// At the end of an interval shares are looked at.
func TestEjectionBySweep(t *testing.T) {
	simulated(t, func(t *testing.T) {
		cfg := ejection()
		cfg.ConsecutiveFailures = 0
		cfg.FailurePercentage = &outlier.FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 2, RequestVolume: 10}
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Ejection: cfg})
		a, b := r.instance("a:1"), r.instance("b:1")
		time.Sleep(10 * time.Second) // nothing happens in the first
		synctest.Wait()
		rpcs(a, 20, codes.Unavailable)
		rpcs(b, 20, codes.OK)
		time.Sleep(10*time.Second - 1)
		a.want(t, 0, true)
		time.Sleep(1)
		a.want(t, Ejected, false)
		st := r.cluster.Status().Instances[0]
		if st.Blocked != Ejected || st.Usable || st.Ejection.Why != "100.0 % of 20 RPCs failed, more than 50 %" || st.Ejection.Until != time.Now().Add(30*time.Second) {
			t.Errorf("the status is %+v, %+v", st.Verdicts, st.Ejection)
		}
		if err := r.cluster.LastError(); err == nil || err.Error() != `a:1 is ejected by policy "eject" for 30s more: 100.0 % of 20 RPCs failed, more than 50 %` {
			t.Errorf("the last error is %v", err)
		}
	})
}

func TestExcusedDoesNotCount(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Ejection: ejection(), Breaker: trip(), BreakerFailures: failures})
		a := r.instance("a:1")
		for range 100 {
			a.Observe(time.Now(), &Outcome{Turn: a.Begin(time.Now()), Code: codes.Unavailable, Excused: true})
			a.End()
		}
		rpcs(a, 100, codes.NotFound) // no failure of the instance's
		a.want(t, 0, true)
		// It is no success either.
		rpcs(a, 2, codes.Unavailable)
		a.Observe(time.Now(), &Outcome{Turn: a.Begin(time.Now()), Code: codes.Unavailable, Excused: true})
		a.End()
		rpcs(a, 3, codes.Unavailable)
		a.want(t, Broken, false)
	})
}

// When the other one cannot be used, whatever the reason, the one that is ejected is
// better than none, and that at once.
func TestEjectedIsBetterThanNone(t *testing.T) {
	for _, tc := range []struct {
		name string
		lose func(r *rig, b *Instance)
	}{
		{"it cannot be connected to", func(r *rig, b *Instance) { r.call(b) }},
		{"its app is gone", func(_ *rig, b *Instance) { b.Refused(ErrGone) }},
		{"it is unhealthy", func(_ *rig, b *Instance) { b.Block(Unhealthy, true) }},
		{"it is broken", func(_ *rig, b *Instance) { b.Block(Broken, true) }},
		{"it connects slowly", func(r *rig, b *Instance) {
			h := r.net.Listen("b:1")
			h.Delay = time.Second
			r.call(b)
			time.Sleep(250 * time.Millisecond)
		}},
		{"it is gone", func(r *rig, _ *Instance) { r.update("a:1") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{}, "a:1", "b:1")
				r.cluster.Configure(&Policy{Ejection: ejection()})
				a, b := r.instance("a:1"), r.instance("b:1")
				rpcs(a, 5, codes.Unavailable)
				a.want(t, Ejected, false)
				tc.lose(r, b)
				a.want(t, 0, true)
				r.gauges(0)
			})
		})
	}
}

// Registry updates, and changes of what it is not about, leave an ejection as it is.
func TestEjectionOutlivesUpdates(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1", "c:1")
		cfg := ejection()
		r.cluster.Configure(&Policy{Ejection: cfg})
		a := r.instance("a:1")
		rpcs(a, 5, codes.Unavailable)
		time.Sleep(20 * time.Second)
		r.update("d:1", "b:1", "a:1")
		r.cluster.Configure(&Policy{Ejection: cfg, Breaker: trip(), BreakerFailures: failures})
		if r.instance("a:1") != a {
			t.Fatal("it is another instance")
		}
		a.want(t, Ejected, false)
		time.Sleep(10 * time.Second)
		a.want(t, 0, true)
		// The new one is judged as well.
		rpcs(r.instance("d:1"), 5, codes.Unavailable)
		r.instance("d:1").want(t, Broken, false) // after three, and so it is not ejected
		// Without a policy all return, and nothing is due any more.
		r.cluster.Configure(nil)
		r.instance("d:1").want(t, 0, true)
		r.gauges(0, 0, 0)
		synctest.Wait()
		if r.cluster.judges.timer.Stop() {
			t.Error("without a policy a timer runs")
		}
		rpcs(a, 100, codes.Unavailable)
		a.want(t, 0, true)
		if r.counts.Judgement.InForce.Load() {
			t.Error("instances are still judged")
		}
	})
}

// A timer runs only while there are instances.
func TestNoInstancesNoTimer(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Ejection: ejection()})
		rpcs(r.instance("a:1"), 5, codes.Unavailable)
		gone := r.instance("a:1")
		r.update()
		time.Sleep(time.Minute)
		if r.cluster.judges.timer.Stop() {
			t.Error("without instances a timer runs")
		}
		r.gauges(0, 0, 0)
		// What is gone is counted no more, whatever its last RPCs come to.
		gone.Block(Unhealthy|Broken, true)
		r.gauges(0, 0, 0)
		r.update("a:1", "b:1")
		rpcs(r.instance("a:1"), 5, codes.Unavailable)
		r.instance("a:1").want(t, Ejected, false)
		time.Sleep(30 * time.Second)
		r.instance("a:1").want(t, 0, true)
	})
}

// Each ejection and each return is logged with its numbers.
func TestEjectionIsLogged(t *testing.T) { //nolint:paralleltest // it looks at what the process logs
	log := logged(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Ejection: ejection()})
		rpcs(r.instance("a:1"), 5, codes.Unavailable)
		time.Sleep(30 * time.Second)
		synctest.Wait()
	})
	for _, want := range []string{
		`level=WARN msg="instance ejected: more of its RPCs fail than of others'" service=greeter instance=a:1 policy=eject rule=consecutive_failures why="5 failures in a row" for=30s times=1`,
		`level=INFO msg="ejected instance is used again" service=greeter instance=a:1 policy=eject rule=consecutive_failures why="its time is over" after=30s times=1`,
	} {
		if !strings.Contains(log(), want) {
			t.Errorf("the log has no %s:\n%s", want, log())
		}
	}
}

// What an RPC pays for being judged.
func BenchmarkObserve(b *testing.B) {
	for _, bm := range []struct {
		name   string
		policy *Policy
		code   codes.Code
	}{
		{"no policy", nil, codes.OK},
		{"ejection", &Policy{Ejection: ejection()}, codes.OK},
		{"ejection, failure", &Policy{Ejection: ejection()}, codes.Unavailable},
		{"breaker", &Policy{Breaker: trip(), BreakerFailures: failures}, codes.OK},
		{"both", &Policy{Ejection: ejection(), Breaker: trip(), BreakerFailures: failures}, codes.OK},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := newRig(b, Options{}, "a:1")
			r.cluster.Configure(bm.policy)
			in := r.instance("a:1")
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				o := Outcome{Turn: in.Begin(now), Code: bm.code, FirstByte: time.Millisecond}
				in.Observe(now, &o)
				in.End()
			}
		})
	}
}
