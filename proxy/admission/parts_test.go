package admission

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(2*time.Hour)), 1, 200).Draw(t, "latencies")
		var s samples
		for _, d := range all {
			s.add(time.Duration(d))
		}
		slices.Sort(all)
		got, want := float64(s.median()), float64(max(all[(len(all)-1)/2], 1))
		if got < want*0.96-1 || got > want*1.04+1 {
			t.Fatalf("the median of %v is %v, want %v", all, got, want)
		}
		s.clear()
		if s.median() != 0 {
			t.Fatal("something is left")
		}
	})
}

func TestBucketsAreInOrder(t *testing.T) {
	t.Parallel()
	last := -1
	for d := time.Duration(1); d < 4*time.Hour; d += d/50 + 1 {
		b := bucketOf(d)
		if b < last || b >= len(samples{}.buckets) {
			t.Fatalf("%v is in bucket %d, what is shorter in %d", d, b, last)
		}
		last = b
	}
	if b := bucketOf(1 << 62); b != len(samples{}.buckets)-1 {
		t.Errorf("the longest time is in bucket %d", b)
	}
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	var th Throttle
	th.Accepted(false) // there is no more than all
	for i := range 50 {
		if !th.Take() {
			t.Fatalf("RPC %d may not go elsewhere", i)
		}
	}
	for range 1000 {
		if th.Take() {
			t.Fatal("with all tokens gone, one may go elsewhere")
		}
	}
	for range 9 {
		th.Accepted(false)
	}
	if th.Take() {
		t.Error("too few are accepted for one to go elsewhere")
	}
	th.Accepted(false)
	if !th.Take() {
		t.Error("ten are accepted, but none may go elsewhere")
	}
	th.Accepted(true)
	if !th.Take() {
		t.Error("one was accepted elsewhere, and the next may not go there")
	}
}

// In any order, those that go elsewhere in vain are at most the tokens more than a
// tenth of what was accepted.
func TestThrottleBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var th Throttle
		accepted, inVain := 0, 0
		for _, kind := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 2000).Draw(t, "RPCs") {
			switch {
			case kind == 0:
				accepted++
				th.Accepted(false)
			case !th.Take(): // that is its end
			case kind == 1:
				accepted++
				th.Accepted(true)
			default:
				inVain++
			}
		}
		if inVain > 50+accepted/10 {
			t.Fatalf("%d go elsewhere in vain, %d were accepted", inVain, accepted)
		}
	})
}

// The transitions of the controller.
func TestController(t *testing.T) {
	t.Parallel()
	const s, ms = time.Second, time.Millisecond
	known := func(limit float64, latency time.Duration) *controller {
		c := newController(Concurrency{}.WithDefaults())
		c.limit, c.settled, c.latency, c.last, c.dueAt = limit, limit, latency, latency, 100*s
		return c
	}
	full := func(now, median time.Duration, peak int64) window {
		return window{now: now, took: s, samples: 1000, median: median, peak: peak}
	}
	for name, test := range map[string]struct {
		from    *controller
		w       window
		state   state
		limit   float64 // rounded down
		latency time.Duration
	}{
		"nothing is known, the app is not pressed":  {newController(Concurrency{}.WithDefaults()), full(s, 10*ms, 5), steady, 20, 10 * ms},
		"nothing is known, the app is pressed":      {newController(Concurrency{}.WithDefaults()), full(s, 10*ms, 20), measuring, 5, 0},
		"not pressed, the latency drifts":           {known(100, 8*ms), full(s, 16*ms, 50), steady, 100, 9 * ms},
		"pressed, no queue: it grows":               {known(100, 10*ms), full(s/2, 10*ms, 100), steady, 136, 10 * ms},
		"pressed, quicker than known":               {known(100, 16*ms), full(s/2, 8*ms, 100), steady, 214, 15 * ms},
		"pressed, a queue: it shrinks":              {known(100, 10*ms), full(s/2, 15*ms, 100), steady, 92, 10 * ms},
		"a long queue: by half at most":             {known(100, 10*ms), full(s/2, 900*ms, 100), steady, 57, 10 * ms},
		"it has shrunk: measure what the app takes": {known(100, 10*ms), full(2*s, 900*ms, 100), measuring, 10, 10 * ms},
		"it has grown: measure":                     {known(16, 10*ms), full(2*s, 5*ms, 16), measuring, 9, 9375 * time.Microsecond},
		"it is long ago: measure":                   {known(100, 10*ms), full(200*s, 13*ms, 100), measuring, 10, 10 * ms},
		"the floor":                                 {known(1, 10*ms), full(s/2, 900*ms, 1), steady, 1, 10 * ms},
		"the ceiling":                               {known(1000, 10*ms), full(s/2, 10*ms, 1000), steady, 1000, 10 * ms},
	} {
		test.from.step(test.w)
		if c := test.from; c.state != test.state || int(c.limit) != int(test.limit) || c.latency != test.latency {
			t.Errorf("%s: state %d, limit %.1f, latency %v", name, c.state, c.limit, c.latency)
		}
	}
	for name, test := range map[string]struct {
		w       window
		latency time.Duration
		falling bool
	}{
		"as before":          {full(s, 10*ms, 50), 10 * ms, false},
		"the app is slower":  {full(s, 20*ms, 50), 20 * ms, false},
		"the app is quicker": {full(s, 5*ms, 50), 5 * ms, true},
		"nothing came":       {window{now: 3 * s, took: 2 * s}, 10 * ms, false},
	} {
		c := known(100, 10*ms)
		c.measure(window{now: s}, 50)
		if !c.complete(test.w) {
			t.Errorf("%s: it goes on", name)
		}
		c.step(test.w)
		if c.state != steady || c.limit != 100 || c.latency != test.latency || c.falling != test.falling {
			t.Errorf("%s: state %d, limit %.1f, latency %v, falling %v", name, c.state, c.limit, c.latency, c.falling)
		}
	}
}

func TestMaxRPCs(t *testing.T) {
	t.Parallel()
	var counts telemetry.Admission
	g := NewGate(Options{MaxRPCs: 1000, Counts: &counts})
	passes := make([]Pass, 1200)
	for i := range passes {
		want := Admitted
		if i >= 1000 {
			want = TooMany
		}
		if i >= 1125 {
			want = FarTooMany
		}
		if got := g.Enter(&passes[i], time.Now(), "/a.B/C", Whole); got != want {
			t.Fatalf("RPC %d: %v, want %v", i, got, want)
		}
		if passes[i].Count != int64(i+1) {
			t.Fatalf("RPC %d counts %d", i, passes[i].Count)
		}
	}
	for i := range passes {
		passes[i].Exit()
		passes[i].Exit() // only once
	}
	if n := counts.InFlight.Load(); n != 0 {
		t.Errorf("%d are left", n)
	}
	if n := counts.Shed[telemetry.ShedMaxRPCs].Load(); n != 200 {
		t.Errorf("%d count as shed", n)
	}
}

func TestNoGate(t *testing.T) {
	t.Parallel()
	var g *Gate
	var p Pass
	if g.Enter(&p, time.Now(), "/", Whole) != Admitted {
		t.Error("refused")
	}
	p.Answered(time.Now(), time.Now())
	p.End(time.Now(), time.Now(), true)
	p.Exit()
}

// Whatever RPCs do at the same time, none is left counted, and never do more wait
// than the limit allows.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var counts telemetry.Admission
	g := NewGate(Options{MaxRPCs: 50, Concurrency: &Concurrency{MinLimit: 5, MaxLimit: 10, InitialLimit: 7}, Counts: &counts})
	var all sync.WaitGroup
	for worker := range uint64(64) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(worker, 1))
			now := time.Now()
			for range 500 {
				// A clock that runs a thousand times too fast, so that cohorts come and go.
				now = now.Add(time.Duration(random.IntN(int(200 * time.Millisecond))))
				var p Pass
				stage := Stage(random.IntN(int(stages)))
				verdict := g.Enter(&p, now, "/a.B/C", stage)
				for stage < Whole && (verdict == Admitted || verdict == Early) && random.IntN(4) > 0 {
					now = now.Add(time.Duration(random.IntN(int(20 * time.Millisecond))))
					stage++
					verdict = p.More(now, stage)
				}
				if verdict == Early {
					verdict = p.Late(now, stage)
				}
				if n := counts.Waiting.Load(); n > 10+64 {
					t.Errorf("%d wait", n)
				}
				begun := now
				now = now.Add(time.Duration(random.IntN(int(20 * time.Millisecond))))
				if verdict == Admitted && random.IntN(3) > 0 {
					p.Answered(now, begun)
				}
				p.End(now, begun, random.IntN(2) > 0)
				p.Exit()
			}
		})
	}
	all.Wait()
	if w, f := counts.Waiting.Load(), counts.InFlight.Load(); w != 0 || f != 0 {
		t.Errorf("%d wait, %d in flight", w, f)
	}
	for i := range g.limiter.classes {
		if n := g.limiter.classes[i].count.Load(); n != 0 {
			t.Errorf("%d of stage %d are counted", n, i)
		}
	}
}

// Where one of two instances refuses everything, all of that goes to the other, as
// soon as the other is well.
func TestThrottleWhereOneIsOverloaded(t *testing.T) {
	t.Parallel()
	var th Throttle
	for th.Take() { // both are overloaded
	}
	elsewhere := 0
	for range 10_000 { // half of the RPCs are refused at first
		th.Accepted(false)
		if th.Take() {
			elsewhere++
			th.Accepted(true)
		}
	}
	if elsewhere < 9_900 {
		t.Errorf("%d of 10,000 RPCs went to the instance that is well", elsewhere)
	}
}

// RPCs that end without an answer show that the app is slow, but not how slow it is
// without a queue: they do not count while that is measured or not known.
func TestUnansweredRPCs(t *testing.T) {
	t.Parallel()
	l := newLimiter(Concurrency{}, new(telemetry.Admission), time.Now())
	unanswered := func(took time.Duration) int64 {
		l.samples.clear()
		l.unanswered(took, took)
		return l.samples.count.Load()
	}
	l.due.Store(int64(time.Hour))
	if unanswered(time.Minute) != 0 {
		t.Error("one counts though nothing is known yet")
	}
	l.ctl.latency = 10 * time.Millisecond
	l.publish()
	if unanswered(12*time.Millisecond) != 0 {
		t.Error("one counts that was given up early")
	}
	if unanswered(13*time.Millisecond) != 1 {
		t.Error("one does not count that took longer than it should")
	}
	l.ctl.measure(window{}, 5)
	l.publish()
	if unanswered(time.Minute) != 0 {
		t.Error("one counts while the latency without a queue is measured")
	}
}

// A caller that takes its time with a request, and then gives up, does not make the
// app look slow.
func TestRequestsThatNeverWereComplete(t *testing.T) {
	t.Parallel()
	g := NewGate(Options{Concurrency: &Concurrency{}})
	l := g.limiter
	l.due.Store(int64(time.Hour))
	l.ctl.latency = 10 * time.Millisecond
	l.publish()
	now := time.Now()
	for _, c := range []struct {
		asked   time.Time
		samples int64
	}{{time.Time{}, 0}, {now.Add(4995 * time.Millisecond), 0}, {now, 1}} {
		var p Pass
		g.Enter(&p, now, "/a.B/C", Whole)
		p.End(now.Add(5*time.Second), c.asked, false)
		if n := l.samples.count.Load(); n != c.samples {
			t.Errorf("asked at %v: %d latencies, want %d", c.asked, n, c.samples)
		}
		l.samples.clear()
		p.Exit()
	}
}
