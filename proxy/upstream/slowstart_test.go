package upstream

import (
	"math"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// Shares worked out by hand: (t / window) ^ (1 / aggression).
func TestWarming(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		aggression float64
		percent    int
		passed     time.Duration
		want       float64
	}{
		{1, 10, 0, 0.1},
		{1, 10, 2 * time.Second, 0.1},
		{1, 10, 6 * time.Second, 0.2},
		{1, 10, 15 * time.Second, 0.5},
		{1, 10, 30 * time.Second, 1},
		{2, 10, 7500 * time.Millisecond, 0.5},
		{0.5, 1, 15 * time.Second, 0.25},
		{1, 100, 0, 1},
		{1, 10, -time.Hour, 0.1},
	} {
		w := warming{since: start}
		s := &SlowStart{Window: 30 * time.Second, Aggression: c.aggression, MinPercent: c.percent}
		if got := w.share(s, start.Add(c.passed)); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("aggression %g, %v after the start: %g, want %g", c.aggression, c.passed, got, c.want)
		}
	}
}

func slowly() *Policy {
	return &Policy{SlowStart: &SlowStart{Window: 30 * time.Second, Aggression: 1, MinPercent: 10}}
}

// shareOf returns how many of the RPCs that two others and it get it gets, compared
// with its part of three, after time has passed with RPCs going on.
func (p *pool) shareOf(id string, after time.Duration) float64 {
	for end := time.Now().Add(after); time.Now().Before(end); {
		p.cluster.Pick(nil)
		time.Sleep(glance / 2)
	}
	got := p.pick(nil, 3000)
	return 2 * float64(got[id]) / float64(3000-got[id])
}

func TestSlowStart(t *testing.T) {
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.LeastRequest, balance.WeightedRoundRobin, balance.EWMA, balance.Random} {
		t.Run(policy.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				config := slowly()
				config.Balance.Policy = policy
				p := newPool(t, Options{}, config, endpoints("a", "b")...)
				want := func(what string, id string, after time.Duration, want float64) {
					t.Helper()
					if got := p.shareOf(id, after); math.Abs(got-want) > 0.12*want+0.03 {
						t.Errorf("%s: %.3f of its share, want %.3f", what, got, want)
					}
				}
				if got := p.pick(nil, 1000)["a"]; got < 400 || got > 600 {
					t.Errorf("of those that are there at first, one gets %d of 1000 RPCs", got)
				}
				p.cluster.Update(endpoints("a", "b", "c"), false)
				want("new", "c", 0, 0.1)
				want("new for 9 s", "c", 9*time.Second, 0.3)
				p.cluster.Update(endpoints("a", "b", "c version=v2"), false)
				want("still, after an update", "c", 0, 0.3)
				p.cluster.Configure(&Policy{Balance: config.Balance, SlowStart: config.SlowStart, PanicPercent: 1})
				want("still, after another policy", "c", 0, 0.3)
				want("new for 24 s", "c", 15*time.Second, 0.8)
				want("new for 31 s", "c", 7*time.Second, 1)
				p.block("b")
				want("ejected", "b", time.Second, 0)
				p.block()
				want("back at once", "b", 0, 0.1)
				want("back for 15 s", "b", 15*time.Second, 0.5)
				want("back for 31 s", "b", 16*time.Second, 1)
				p.avoid("a")
				want("in back-off", "a", time.Second, 0)
				p.avoid()
				want("back at once", "a", 0, 0.1)
			})
		})
	}
}

// What is hashed goes where it belongs, however new that is.
func TestNoSlowStartOfHashes(t *testing.T) {
	t.Parallel()
	for _, policy := range []balance.Policy{balance.RingHash, balance.Maglev} {
		config := slowly()
		config.Balance.Policy = policy
		p := newPool(t, Options{}, config, endpoints("a", "b")...)
		p.cluster.Update(endpoints("a", "b", "c"), false)
		if got := p.pick(nil, 3000)["c"]; got < 700 {
			t.Errorf("%v: a new instance gets %d of 3000 RPCs", policy, got)
		}
	}
}
