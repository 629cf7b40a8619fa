package admission

import (
	"fmt"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// halfOpen begins RPCs that come no further than a stage, so many a second.
func (a *app) halfOpen(stage Stage, rate float64) {
	var begin func()
	begin = func() {
		p := new(Pass)
		v := a.gate.Enter(p, a.epoch.Add(a.now), "/a.B/C", Begun)
		if stage > Begun && (v == Admitted || v == Early) {
			v = p.More(a.epoch.Add(a.now), stage)
		}
		if v == Early {
			a.after(EarlyTime, func() { p.Late(a.epoch.Add(a.now), stage) })
		}
		a.after(time.Duration(float64(time.Second)/rate), begin)
	}
	a.after(0, begin)
}

// Requests that are never complete do not keep the places of those that are. Where
// they count as if they were, nearly nothing is left for the others: that is the
// attack.
func TestHalfOpenRequests(t *testing.T) {
	for name, test := range map[string]struct {
		stage  Stage
		rate   float64
		attack bool
	}{
		"headers":              {Begun, 100, false},
		"many headers":         {Begun, 5000, false},
		"a message":            {Said, 100, false},
		"many with a message":  {Said, 5000, false},
		"counted as the whole": {Whole, 5000, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const service = 20 * time.Millisecond
			a := newApp(t, &Concurrency{}, 8, service, 1)
			a.arrivals(0.4 * a.capacity(service)).run(5 * time.Second)
			a.look()
			a.halfOpen(test.stage, test.rate)
			if test.stage == Said { // those count, so that the limit has to suit them first
				a.run(2 * time.Second)
				a.look()
			}
			a.run(10 * time.Second)
			s := a.look()
			share := float64(s.shed) / float64(s.asked)
			t.Logf("limit %d: %.1f %% of %d were refused, 99th percentile %v", a.counts.Limit.Load(), 100*share, s.asked, s.quantile(0.99))
			if test.attack && share < 0.3 {
				t.Error("this is no attack")
			}
			most := 0.02
			if test.stage == Said {
				most = 0.1 // while the latency is measured few places are left
			}
			if !test.attack && share > most {
				t.Error("too many honest RPCs were refused")
			}
		})
	}
}

// held returns a gate whose limit stays where it is, and a function that begins so many
// RPCs and counts the verdicts.
func held(limit int) (*Gate, *telemetry.Admission, func(n int, now time.Time, stage Stage) ([]Pass, map[Verdict]int)) {
	counts := new(telemetry.Admission)
	g := NewGate(Options{Concurrency: &Concurrency{MinLimit: limit, MaxLimit: limit, InitialLimit: limit}, Counts: counts})
	return g, counts, func(n int, now time.Time, stage Stage) ([]Pass, map[Verdict]int) {
		all, verdicts := make([]Pass, n), map[Verdict]int{}
		for i := range all {
			verdicts[g.Enter(&all[i], now, "/a.B/C", stage)]++
		}
		return all, verdicts
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, begun, said int }{{1, 1, 1}, {2, 1, 1}, {4, 1, 3}, {20, 5, 15}, {1000, 250, 750}} {
		t.Run(fmt.Sprint(c.limit), func(t *testing.T) {
			t.Parallel()
			_, counts, enter := held(c.limit)
			now := time.Now()
			begun, got := enter(2*c.limit, now, Begun)
			if got[Admitted] != c.begun || got[Early] != 2*c.limit-c.begun || counts.Waiting.Load() != 0 {
				t.Errorf("of those with headers only: %v, %d count", got, counts.Waiting.Load())
			}
			said, got := enter(2*c.limit, now, Said)
			if got[Admitted] != c.said || counts.Waiting.Load() != int64(c.said) {
				t.Errorf("of those with a message: %v, %d count", got, counts.Waiting.Load())
			}
			whole := max(c.limit-c.said, 1)
			if _, got = enter(2*c.limit, now, Whole); got[Admitted] != whole || got[OverLimit] != 2*c.limit-whole {
				t.Errorf("of those that are complete: %v", got)
			}
			// Those that were let in go on, above the limit by no more than their share;
			// those that were not are refused when they are complete, or late.
			again := map[Verdict]int{}
			for i := range begun {
				again[begun[i].More(now, Whole)]++
			}
			if again[Admitted] != c.begun || again[OverLimit] != 2*c.limit-c.begun || counts.Waiting.Load() != int64(c.said+whole+c.begun) {
				t.Errorf("once they are complete: %v, %d count", again, counts.Waiting.Load())
			}
			for i := range said {
				if said[i].early && said[i].Late(now, Said) != OverLimit {
					t.Error("one is let in late, above the limit")
				}
			}
			for _, all := range [][]Pass{begun, said} {
				for i := range all {
					all[i].End(now, time.Time{}, false)
				}
			}
			if n := counts.Waiting.Load(); n != int64(whole) {
				t.Errorf("%d count at last", n)
			}
		})
	}
}

// Requests that were let in long ago with nothing but headers have no claim to a place
// any more: they cannot be saved up and completed all at once.
func TestHalfOpenRequestsAreNotSavedUp(t *testing.T) {
	t.Parallel()
	_, counts, enter := held(20)
	now := time.Now()
	var saved []Pass
	for range 1000 {
		some, _ := enter(20, now, Begun)
		for i := range some {
			if !some[i].early {
				saved = append(saved, some[i])
			}
		}
		now = now.Add(200 * time.Millisecond)
	}
	if len(saved) < 50 {
		t.Fatalf("%d RPCs: nothing is ever retired", len(saved))
	}
	got := map[Verdict]int{}
	for i := range saved {
		got[saved[i].More(now, Whole)]++
	}
	t.Logf("%d RPCs: %v", len(saved), got)
	if got[Admitted] > 25 || got[Early] > 0 || counts.Waiting.Load() > 25 {
		t.Errorf("%v, and %d count; the limit is 20", got, counts.Waiting.Load())
	}
}

// Only health checks pass the limit.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	g, _, enter := held(2)
	now := time.Now()
	enter(2, now, Whole)
	for path, passes := range map[string]bool{
		"/grpc.health.v1.Health/Check":  true,
		"/grpc.health.v1.Health/Watch":  true,
		"/grpc.health.v1.Health/List":   true,
		"/grpc.health.v1.Health/":       false,
		"/grpc.health.v1.Health/Checks": false,
		"/grpc.health.v1.Health/check":  false,
		"/grpc.health.v1.Health/Check/": false,
		"/a.B/C":                        false,
	} {
		var whole, begun Pass
		if v := g.Enter(&whole, now, path, Whole); (v == Admitted) != passes {
			t.Errorf("%s: verdict %d", path, v)
		}
		if v := g.Enter(&begun, now, path, Begun); v == Admitted {
			t.Errorf("%s: headers alone pass", path)
		} else if v == Early && begun.More(now, Whole) != Admitted {
			t.Errorf("%s: does not pass once it is complete", path)
		} else if (v == Early) != passes {
			t.Errorf("%s: verdict %d on its headers", path, v)
		}
	}
}

// Old RPCs are retired also while a window is long in coming to its end.
func TestRetirementDoesNotWaitForAWindow(t *testing.T) {
	t.Parallel()
	g, counts, enter := held(5)
	now := time.Now()
	enter(5, now, Whole)
	g.limiter.mu.Lock()
	g.limiter.due.Store(int64(time.Hour))
	g.limiter.mu.Unlock()
	for range 20 {
		now = now.Add(firstPatience / 8)
		if _, got := enter(1, now, Whole); got[Admitted] > 0 {
			return
		}
	}
	t.Errorf("after %v %d RPCs still count", 20*firstPatience/8, counts.Waiting.Load())
}
