package balance_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

var start = time.Unix(1_700_000_000, 0)

func TestLatency(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type answer struct {
		after, took time.Duration
		failed      bool
	}
	for _, c := range []struct {
		what    string
		answers []answer
		idle    time.Duration
		want    time.Duration // within 1 %
	}{
		{"nothing is known", nil, 0, 0},
		{"the first answer", []answer{{0, 20 * ms, false}}, 0, 20 * ms},
		{"a slower one counts at once", []answer{{0, 20 * ms, false}, {ms, 400 * ms, false}}, 0, 400 * ms},
		{"a quicker one by and by: 400 e^-0.1 + 20 (1 - e^-0.1)", []answer{{0, 400 * ms, false}, {time.Second, 20 * ms, false}}, 0, 363839 * time.Microsecond},
		{"10 s later it is 1/e of what it was", []answer{{0, 400 * ms, false}}, 10 * time.Second, 147152 * time.Microsecond},
		{"after minutes it is forgotten", []answer{{0, 400 * ms, false}}, 3 * time.Minute, 0},
		{"a quick failure is not quick", []answer{{0, 100 * ms, false}, {0, ms, true}}, 0, 200 * ms},
		{"one after the other", []answer{{0, 100 * ms, false}, {0, ms, true}, {0, ms, true}}, 0, 400 * ms},
		{"the first answer is a failure", []answer{{0, ms, true}}, 0, 10 * ms},
		{"a slow failure counts as what it took", []answer{{0, ms, false}, {0, time.Second, true}}, 0, time.Second},
		{"time does not go back", []answer{{0, 20 * ms, false}, {-time.Hour, 10 * ms, false}}, 0, 20 * ms},
	} {
		var l balance.Latency
		now := start
		for _, a := range c.answers {
			now = now.Add(a.after)
			l.Observe(now, a.took, a.failed)
		}
		got := time.Duration(l.At(now.Add(c.idle).UnixNano()))
		if off := got - c.want; off < -c.want/100 || off > c.want/100 {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// TestLatencyStaysWithinWhatWasSeen says that without failures no estimate is above
// the slowest answer, and that failures do not pile up without end.
func TestLatencyStaysWithinWhatWasSeen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var l balance.Latency
		now := start
		slowest := 10 * time.Millisecond
		failures := rapid.Bool().Draw(t, "failures")
		if failures {
			slowest = 5 * time.Second
		}
		for range rapid.IntRange(1, 100).Draw(t, "answers") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "after")))
			took := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "took"))
			slowest = max(slowest, took)
			l.Observe(now, took, failures && rapid.Bool().Draw(t, "failed"))
			if got := l.At(now.UnixNano()); got < float64(time.Microsecond) || got > float64(slowest) {
				t.Fatalf("the estimate is %v, the slowest answer was %v", time.Duration(got), slowest)
			}
		}
	})
}

// apps answer RPCs on time that the test lets pass.
type apps struct {
	hs       []*host
	now      time.Time
	takes    func(h *host) time.Duration
	underWay []answering
}

type answering struct {
	h    *host
	from time.Time
	till time.Time
}

// run sends an RPC every interval and returns how many each got.
func (a *apps) run(p balance.Picker[*host], rpcs int, interval time.Duration) []int {
	counts := make([]int, len(a.hs))
	for range rpcs {
		a.now = a.now.Add(interval)
		rest := a.underWay[:0]
		for _, r := range a.underWay {
			if r.till.After(a.now) {
				rest = append(rest, r)
				continue
			}
			r.h.inFlight.Add(-1)
			r.h.latency.Observe(r.till, r.till.Sub(r.from), false)
		}
		a.underWay = rest
		h, _ := p.Pick(query{Now: a.now.UnixNano()})
		h.inFlight.Add(1)
		counts[h.id]++
		a.underWay = append(a.underWay, answering{h, a.now, a.now.Add(a.takes(h))})
	}
	return counts
}

// TestEWMALeavesASlowInstance has one of a few instances become 20 times slower for
// some seconds: it gets few RPCs until it is quick again, and its share then.
func TestEWMALeavesASlowInstance(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3, 10} {
		slow := false
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		a := &apps{hs: hosts(n), now: start, takes: func(h *host) time.Duration {
			took := time.Duration((8 + 4*rng.Float64()) * float64(time.Millisecond))
			if slow && h.id == 0 {
				took *= 20
			}
			return took
		}}
		p := newPicker(balance.EWMA, a.hs, nil, seeded(uint64(n)))
		const perSecond = 500
		run := func(seconds int) float64 {
			return float64(a.run(p, seconds*perSecond, time.Second/perSecond)[0]) / float64(seconds*perSecond) * float64(n)
		}
		if share := run(10); share < 0.7 || share > 1.3 {
			t.Errorf("of %d instances alike, one gets %.2f times its share", n, share)
		}
		slow = true
		run(1) // until it has answered slowly
		if share := run(5); share > 0.1 {
			t.Errorf("of %d instances, a slow one gets %.2f times its share", n, share)
		}
		slow = false
		run(40)
		if share := run(10); share < 0.6 {
			t.Errorf("of %d instances, one that was slow gets %.2f times its share half a minute later", n, share)
		}
	}
}

// TestEWMATriesAnInstanceThatItDoesNotKnow says that a new instance neither gets all
// RPCs nor none before it has answered, whatever the others' latency.
func TestEWMATriesAnInstanceThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, usual := range []time.Duration{100 * time.Microsecond, 10 * time.Millisecond, time.Second} {
		a := &apps{hs: hosts(4), now: start, takes: func(h *host) time.Duration {
			if h.id == 3 {
				return time.Hour
			}
			return usual
		}}
		for _, h := range a.hs[:3] {
			h.latency.Observe(start, usual, false)
		}
		p := newPicker(balance.EWMA, a.hs, nil, seeded(1))
		got := a.run(p, 100, usual)[3]
		if got < 1 || got > 10 {
			t.Errorf("where others take %v, a new one gets %d of 100 RPCs before it has answered", usual, got)
		}
	}
}

// TestEWMAHonoursWeightsUnderLoad says that what an instance has under way counts for
// its weight.
func TestEWMAHonoursWeightsUnderLoad(t *testing.T) {
	t.Parallel()
	hs := hosts(2)
	p := newPicker(balance.EWMA, hs, []uint32{1, 3}, seeded(1))
	hs[0].inFlight.Store(10)
	hs[1].inFlight.Store(30)
	if got := count(t, p, hs, 4000); got[0] < 850 || got[0] > 1150 {
		t.Errorf("with as much to do for their weights, 1 and 3, they get %v", got)
	}
	hs[0].inFlight.Store(20)
	if got := count(t, p, hs, 100); got[1] != 100 {
		t.Errorf("the one with less to do for its weight gets %d of 100", got[1])
	}
}
