package upstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
)

func TestInstanceBreaker(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures, BreakerPolicy: "break"})
		a := r.instance("a:1")
		late := a.Begin(time.Now())
		rpcs(a, 2, codes.Unavailable)
		a.want(t, 0, true)
		rpcs(a, 1, codes.Unavailable)
		a.want(t, Broken, false)
		r.gauges(0, 0, 1)
		if n := r.counts.Judgement.BreakerOpenings.Load(); n != 1 {
			t.Errorf("%d openings are counted", n)
		}
		if err := a.LastError(); err == nil || err.Error() != `a:1 is broken by policy "break": its circuit breaker is open for 5s more: 3 failures in a row` {
			t.Errorf("the last error is %v", err)
		}
		time.Sleep(5*time.Second - 1)
		a.want(t, Broken, false)
		time.Sleep(1)
		// Two probes are let through, and no more.
		a.want(t, Broken, true)
		first := a.Begin(time.Now())
		a.want(t, Broken, true)
		second := a.Begin(time.Now())
		a.want(t, Broken, false)
		// What began before proves nothing.
		a.Observe(time.Now(), &Outcome{Turn: late, Code: codes.OK})
		a.want(t, Broken, false)
		a.Observe(time.Now(), &Outcome{Turn: first, Code: codes.OK})
		a.want(t, Broken, true)
		a.Observe(time.Now(), &Outcome{Turn: second, Code: codes.OK})
		a.want(t, 0, true)
		r.gauges(0, 0, 0)
		if err := a.LastError(); err != nil {
			t.Errorf("the last error is %v", err)
		}
	})
}

func TestInstanceBreakerOpensAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures})
		a := r.instance("a:1")
		rpcs(a, 3, codes.Unavailable)
		time.Sleep(5 * time.Second)
		rpcs(a, 1, codes.Internal) // the probe
		a.want(t, Broken, false)
		time.Sleep(10*time.Second - 1) // twice as long
		a.want(t, Broken, false)
		time.Sleep(1)
		a.want(t, Broken, true)
		// RPCs that go there all the same, as where all are broken, decide nothing.
		rpcs(a, 2, codes.OK)
		a.want(t, 0, true)
	})
}

// More RPCs than probes may come where there is nobody else: they are no probes.
func TestTooManyForTheProbes(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures})
		a := r.instance("a:1")
		rpcs(a, 3, codes.Unavailable)
		time.Sleep(5 * time.Second)
		turns := []Turn{a.Begin(time.Now()), a.Begin(time.Now()), a.Begin(time.Now())}
		a.Observe(time.Now(), &Outcome{Turn: turns[2], Code: codes.Unavailable})
		a.want(t, Broken, false)
		for _, turn := range turns[:2] {
			a.Observe(time.Now(), &Outcome{Turn: turn, Code: codes.OK})
		}
		a.want(t, 0, true)
	})
}

// A breaker outlives what is not about it; one whose conditions are others begins
// anew, and results for the old one come to nothing.
func TestInstanceBreakerAndItsPolicy(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures})
		a := r.instance("a:1")
		rpcs(a, 2, codes.Unavailable)
		r.update("c:1", "a:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures, Ejection: ejection()})
		late := a.Begin(time.Now())
		rpcs(a, 1, codes.Unavailable)
		a.want(t, Broken, false)
		other := trip()
		other.ConsecutiveFailures = 1
		r.cluster.Configure(&Policy{Breaker: other, BreakerFailures: failures})
		a.want(t, 0, true)
		a.Observe(time.Now(), &Outcome{Turn: late, Code: codes.Unavailable})
		a.want(t, 0, true)
		rpcs(a, 1, codes.Unavailable)
		a.want(t, Broken, false)
		r.cluster.Configure(nil)
		a.want(t, 0, true)
		r.gauges(0, 0, 0)
	})
}

func TestInstanceBreakerIsLogged(t *testing.T) { //nolint:paralleltest // it looks at what the process logs
	log := logged(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures, BreakerPolicy: "break"})
		rpcs(r.instance("a:1"), 3, codes.Unavailable)
		time.Sleep(5 * time.Second)
		rpcs(r.instance("a:1"), 2, codes.OK)
		synctest.Wait()
	})
	for _, want := range []string{
		`level=WARN msg="instance's circuit breaker opened" service=greeter instance=a:1 policy=break from=closed to=open why="3 failures in a row" for=5s`,
		`level=INFO msg="instance's circuit breaker changed" service=greeter instance=a:1 policy=break from=open to=half-open`,
		`from=half-open to=closed why="2 probes in a row succeeded"`,
	} {
		if !strings.Contains(log(), want) {
			t.Errorf("the log has no %s:\n%s", want, log())
		}
	}
}
