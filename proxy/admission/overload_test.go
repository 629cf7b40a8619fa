package admission

import (
	"fmt"
	"testing"
	"time"
)

// capacity is how many RPCs an app can answer in a second.
func (a *app) capacity(service time.Duration) float64 {
	return float64(a.workers) / service.Seconds()
}

// overloaded checks that an app whose RPCs take so long gives nearly all that it
// can, without making callers wait much longer than they must.
func (a *app) overloaded(service time.Duration, least, most float64) {
	a.t.Helper()
	rate := a.throughput(a.seen) / a.capacity(service)
	s := a.look()
	median, tail := float64(s.quantile(0.5))/float64(service), float64(s.quantile(0.99))/float64(service)
	a.t.Logf("limit %d: %.0f %% of the capacity, median %.1f, 99th percentile %.1f times what an RPC takes, %.0f %% refused",
		a.counts.Limit.Load(), 100*rate, median, tail, 100*float64(s.shed)/float64(s.asked))
	if rate < least {
		a.t.Errorf("it gave %.0f %% of its capacity, want %.0f %%", 100*rate, 100*least)
	}
	if median > most || tail > 1.5*most {
		a.t.Errorf("the median is %.1f times what an RPC takes, the 99th percentile %.1f times; want %.1f and %.1f", median, tail, most, 1.5*most)
	}
}

// An app that is asked for three times what it can do, by callers that do not
// slow down.
func TestThreeTimesTheCapacity(t *testing.T) {
	for _, c := range []struct {
		workers int
		service time.Duration
		most    float64 // times the latency: the headroom weighs more where there are few workers
	}{
		{1, 20 * time.Millisecond, 3.2},
		{2, 20 * time.Millisecond, 2.5},
		{4, 20 * time.Millisecond, 2},
		{8, 5 * time.Millisecond, 2},
		{20, 20 * time.Millisecond, 1.8},
		{50, 50 * time.Millisecond, 1.6},
	} {
		t.Run(fmt.Sprintf("%d workers, %v", c.workers, c.service), func(t *testing.T) {
			t.Parallel()
			a := newApp(t, &Concurrency{}, c.workers, c.service, 1)
			warm := 10 * time.Second
			if c.workers == 1 {
				warm *= 3 // with so few RPCs all is slower
			}
			a.arrivals(3 * a.capacity(c.service)).run(warm)
			a.look()
			a.run(10 * time.Second)
			a.overloaded(c.service, 0.95, c.most)
		})
	}
}

// The same without the limit: the test above can fail.
func TestThreeTimesTheCapacityWithoutALimit(t *testing.T) {
	t.Parallel()
	const service = 20 * time.Millisecond
	a := newApp(t, nil, 4, service, 1)
	a.arrivals(3 * a.capacity(service)).run(10 * time.Second)
	s := a.look()
	if median := s.quantile(0.5); median < 50*service {
		t.Errorf("the median is %v: the overload is none", median)
	}
	// With callers who give up the app works for nobody but those.
	a = newApp(t, nil, 4, service, 1)
	a.timeout = time.Second
	a.arrivals(3 * a.capacity(service)).run(5 * time.Second)
	a.look()
	a.run(10 * time.Second)
	if rate := a.throughput(a.seen) / a.capacity(service); rate > 0.1 {
		t.Errorf("it gave %.0f %% of its capacity: the overload is none", 100*rate)
	}
}

// RPCs that take very different times: the limit looks at the median.
func TestUnevenRPCs(t *testing.T) {
	t.Parallel()
	const service = 10 * time.Millisecond
	a := newApp(t, &Concurrency{}, 20, service, 1)
	a.exponential(service)
	a.arrivals(3 * a.capacity(service)).run(10 * time.Second)
	a.look()
	a.run(10 * time.Second)
	a.overloaded(service, 0.9, 3.5) // the 99th percentile without a queue is 4.6
}

// An app that keeps up refuses next to nothing, from the first seconds on: it is
// not measured at its callers' expense.
func TestNoOverload(t *testing.T) {
	for _, c := range []struct {
		workers int
		load    float64
	}{
		{4, 0.5}, {8, 0.7}, {20, 0.5}, {20, 0.8}, {50, 0.8},
	} {
		t.Run(fmt.Sprintf("%d workers, %.1f of the capacity", c.workers, c.load), func(t *testing.T) {
			t.Parallel()
			const service = 20 * time.Millisecond
			a := newApp(t, &Concurrency{}, c.workers, service, 1)
			for range 10 { // from nothing, over ten seconds
				a.arrivals(a.rate + c.load/10*a.capacity(service)).run(time.Second)
			}
			if s := a.look(); float64(s.shed) > 0.02*float64(s.asked) {
				t.Errorf("while the load grew, %d of %d RPCs were refused", s.shed, s.asked)
			}
			a.run(40 * time.Second)
			if s := a.look(); float64(s.shed) > 0.02*float64(s.asked) {
				t.Errorf("%d of %d RPCs were refused", s.shed, s.asked)
			}
		})
	}
}

// Many asynchronous RPCs at once are no overload: the limit grows as fast as they
// come.
func TestAnAppThatIsNeverBusy(t *testing.T) {
	t.Parallel()
	const service = 50 * time.Millisecond
	a := newApp(t, &Concurrency{}, 1<<20, service, 1)
	a.arrivals(100 / service.Seconds()).run(2 * time.Second)
	a.look()
	a.run(3 * time.Second)
	if s := a.look(); s.shed > s.asked/50 {
		t.Errorf("%d of %d RPCs were refused", s.shed, s.asked)
	}
	a.arrivals(500 / service.Seconds()).run(2 * time.Second)
	a.look()
	a.run(3 * time.Second)
	if s := a.look(); s.shed > s.asked/50 {
		t.Errorf("after a sudden rise, %d of %d RPCs were refused", s.shed, s.asked)
	}
}

// What the app can do changes under a load that it cannot bear. Seconds later the
// limit suits it again.
func TestTheAppChanges(t *testing.T) {
	const service = 20 * time.Millisecond
	for name, change := range map[string]func(a *app) time.Duration{
		"twice as slow":        func(a *app) time.Duration { a.fixed(2 * service); return 2 * service },
		"five times as slow":   func(a *app) time.Duration { a.fixed(5 * service); return 5 * service },
		"twice as quick":       func(a *app) time.Duration { a.fixed(service / 2); return service / 2 },
		"five times as quick":  func(a *app) time.Duration { a.fixed(service / 5); return service / 5 },
		"half of the workers":  func(a *app) time.Duration { a.workers /= 2; return service },
		"twice as many":        func(a *app) time.Duration { a.workers *= 2; return service },
		"a quarter of workers": func(a *app) time.Duration { a.workers /= 4; return service },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApp(t, &Concurrency{}, 20, service, 1)
			a.arrivals(3 * a.capacity(service)).run(5 * time.Second)
			now := change(a)
			a.arrivals(3 * a.capacity(now)).run(10 * time.Second)
			a.look()
			a.run(5 * time.Second)
			a.overloaded(now, 0.9, 2.2)
		})
	}
}

// An app that answers nothing for a while, and whose callers give up, is not
// taken for one that is slow.
func TestTheAppHangs(t *testing.T) {
	t.Parallel()
	const service = 20 * time.Millisecond
	a := newApp(t, &Concurrency{}, 20, service, 1)
	a.timeout = time.Second
	a.arrivals(3 * a.capacity(service)).run(6 * time.Second)
	workers := a.workers
	a.workers = 0
	a.run(6 * time.Second)
	a.workers = workers
	a.work()
	a.run(5 * time.Second)
	a.look()
	a.run(10 * time.Second)
	a.overloaded(service, 0.9, 2)
}

// The same with callers who wait for a minute: the latencies that this leaves are no
// time to wait for.
func TestTheAppHangsWithLongDeadlines(t *testing.T) {
	t.Parallel()
	const service = 20 * time.Millisecond
	a := newApp(t, &Concurrency{}, 20, service, 1)
	a.timeout = time.Minute
	a.arrivals(3 * a.capacity(service)).run(6 * time.Second)
	workers := a.workers
	a.workers = 0
	a.run(130 * time.Second)
	a.workers = workers
	a.work()
	a.run(15 * time.Second)
	a.look()
	a.run(10 * time.Second)
	a.overloaded(service, 0.9, 2)
}

// After an overload the app is as it was before.
func TestTheOverloadEnds(t *testing.T) {
	t.Parallel()
	const service = 20 * time.Millisecond
	a := newApp(t, &Concurrency{}, 20, service, 1)
	a.arrivals(10 * a.capacity(service)).run(10 * time.Second)
	a.arrivals(0.5 * a.capacity(service)).run(2 * time.Second)
	a.look()
	a.run(30 * time.Second)
	s := a.look()
	if s.shed > s.asked/50 || s.quantile(0.99) > 2*service {
		t.Errorf("%d of %d RPCs were refused, the 99th percentile is %v", s.shed, s.asked, s.quantile(0.99))
	}
}

// Streams that the app does not answer before there is something to say fill the
// limit only for a time.
func TestStreamsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	const service = 20 * time.Millisecond
	a := newApp(t, &Concurrency{MaxLimit: 20}, 100, service, 1)
	a.arrivals(100).run(5 * time.Second)
	a.look()
	open := 0
	for range 300 {
		var p Pass
		if a.gate.Enter(&p, a.epoch.Add(a.now), "/a.B/Watch", Whole) == Admitted {
			open++
		} else {
			p.Exit()
		}
		a.run(100 * time.Millisecond)
	}
	s := a.look()
	t.Logf("%d of 300 streams; of %d RPCs %d were refused", open, s.asked, s.shed)
	if open < 100 || float64(s.shed) > 0.3*float64(s.asked) {
		t.Errorf("%d of 300 streams were opened; of %d RPCs beside them %d were refused", open, s.asked, s.shed)
	}
	a.arrivals(100).run(15 * time.Second)
	a.look()
	a.run(5 * time.Second)
	if s := a.look(); s.shed > 5 {
		t.Errorf("with the streams open, %d of %d RPCs were refused", s.shed, s.asked)
	}
}
