package balance_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

var policies = []balance.Policy{
	balance.RoundRobin, balance.LeastRequest, balance.PickFirst, balance.WeightedRoundRobin,
	balance.RingHash, balance.Maglev, balance.EWMA, balance.Random,
}

type query = balance.Query[*host]

// newPicker returns a new picker with the policy's defaults.
func newPicker(policy balance.Policy, hs []*host, weights []uint32, rnd func() uint64) balance.Picker[*host] {
	set := balance.Set[*host]{Instances: hs, Weights: weights}
	return balance.New(balance.Options{Policy: policy}, set, rnd, nil)
}

// small returns a picker with a small ring or table, for where many are made: with the
// race detector the usual ones take most of a test's time.
func small(policy balance.Policy, hs []*host, weights []uint32, rnd func() uint64) balance.Picker[*host] {
	set := balance.Set[*host]{Instances: hs, Weights: weights}
	return balance.New(balance.Options{Policy: policy, RingSize: 128, TableSize: 1009}, set, rnd, nil)
}

// host is an instance as tests want it.
type host struct {
	id       int
	key      string
	down     atomic.Bool
	inFlight atomic.Int64
	asked    atomic.Int64 // how often somebody asked whether it is usable
	lost     atomic.Bool  // cannot be reached either
	latency  balance.Latency
}

func (h *host) Usable() bool              { h.asked.Add(1); return !h.down.Load() }
func (h *host) Reachable() bool           { return !h.lost.Load() }
func (h *host) InFlight() int64           { return h.inFlight.Load() }
func (h *host) Latency(now int64) float64 { return h.latency.At(now) }
func (h *host) HashKey() string           { return h.key }

func hosts(n int) []*host {
	hs := make([]*host, n)
	for i := range hs {
		hs[i] = &host{id: i, key: fmt.Sprintf("10.0.%d.%d:50051", i/256, i%256)}
	}
	return hs
}

// seeded is randomness that is the same in each run.
func seeded(seed uint64) func() uint64 { return rand.New(rand.NewPCG(seed, seed)).Uint64 }

// count picks n times and returns how often each of the hosts was picked.
func count(t rapid.TB, p balance.Picker[*host], hs []*host, n int) []int {
	t.Helper()
	counts := make([]int, len(hs))
	for range n {
		h, ok := p.Pick(query{})
		if !ok {
			t.Fatal("nothing is picked")
		}
		counts[h.id]++
	}
	return counts
}

// expected returns the shares of n picks that go to each host that is up.
func expected(hs []*host, weights []uint32, n int) []float64 {
	var sum float64
	shares := make([]float64, len(hs))
	for i, h := range hs {
		if !h.down.Load() {
			shares[i] = float64(weights[i])
			sum += shares[i]
		}
	}
	for i := range shares {
		shares[i] *= float64(n) / sum
	}
	return shares
}

func furthest(counts []int, want []float64) float64 {
	var worst float64
	for i := range counts {
		worst = max(worst, math.Abs(float64(counts[i])-want[i]))
	}
	return worst
}

func TestPicksOnlyWhatIsEligible(t *testing.T) {
	t.Parallel()
	for _, policy := range policies {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(0, 30).Draw(t, "instances")
				hs := hosts(n)
				weights := rapid.SliceOfN(rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32()), 0, n).Draw(t, "weights")
				p := small(policy, hs, weights, seeded(rapid.Uint64().Draw(t, "seed")))
				for range 10 {
					// Few eligible ones are as likely as many.
					odds := rapid.IntRange(0, 4).Draw(t, "odds")
					tried := make([]bool, n)
					eligible := 0
					for i, h := range hs {
						h.down.Store(rapid.IntRange(0, 3).Draw(t, "down") < odds)
						tried[i] = rapid.IntRange(0, 7).Draw(t, "tried") < odds
						if !h.down.Load() && !tried[i] {
							eligible++
						}
					}
					for range 5 {
						h, ok := p.Pick(query{Skip: func(h *host) bool { return tried[h.id] }})
						if ok != (eligible > 0) {
							t.Fatalf("picked: %v, with %d eligible", ok, eligible)
						}
						if ok && (h.down.Load() || tried[h.id]) {
							t.Fatalf("picked %d; down: %v, tried: %v", h.id, h.down.Load(), tried[h.id])
						}
					}
				}
			})
		})
	}
}

func TestFindsTheOnlyUsableOne(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for _, policy := range policies {
		for _, kind := range []string{"equal", "heavy", "light"} {
			t.Run(policy.String()+"/"+kind, func(t *testing.T) {
				t.Parallel()
				hs := hosts(n)
				weights := make([]uint32, n)
				const up = 7_123
				for i, h := range hs {
					h.down.Store(i != up)
					weights[i] = 1000
				}
				switch kind {
				case "heavy":
					weights[up] = 1 << 31
				case "light":
					weights[up] = 1
				}
				p := newPicker(policy, hs, weights, seeded(1))
				for range 20 {
					if h, ok := p.Pick(query{}); !ok || h.id != up {
						t.Fatalf("picked %v, %v", h, ok)
					}
				}
				hs[up].down.Store(true)
				if h, ok := p.Pick(query{}); ok {
					t.Fatalf("picked %d, which is down", h.id)
				}
			})
		}
	}
}

// TestGivesUp has every instance fail the moment it is wanted, and expects an
// answer after looking at each a few times.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	for _, policy := range policies {
		for _, n := range []int{1, 2, 4, 5, 1000} {
			hs := hosts(n)
			weights := make([]uint32, n)
			for i := range weights {
				weights[i] = uint32(1 + i%7)
			}
			p := newPicker(policy, hs, weights, seeded(2))
			for range 10 {
				calls := 0
				if _, ok := p.Pick(query{Skip: func(*host) bool { calls++; return true }}); ok {
					t.Errorf("%v among %d picked a skipped one", policy, n)
				}
				most := 3*n + 10
				if policy.Hashes() {
					most += 64 // however few there are, others may come next
				}
				if calls > most {
					t.Errorf("%v among %d asked %d times", policy, n, calls)
				}
			}
		}
	}
}

// TestSkipsFewAtOnce says that one unusable instance among many does not make
// a pick look at all of them.
func TestSkipsFewAtOnce(t *testing.T) {
	t.Parallel()
	const n, picks = 1000, 10_000
	for _, policy := range policies {
		hs := hosts(n)
		for i := range n / 10 {
			hs[i*10].down.Store(true)
		}
		count(t, newPicker(policy, hs, nil, seeded(3)), hs, picks)
		var asked int64
		for _, h := range hs {
			asked += h.asked.Load()
		}
		if asked > 3*picks {
			t.Errorf("%v looked at %d instances for %d picks", policy, asked, picks)
		}
	}
}

func TestConcurrentPicks(t *testing.T) {
	t.Parallel()
	for _, policy := range policies {
		for _, n := range []int{3, 50} {
			t.Run(fmt.Sprint(policy, "/", n), func(t *testing.T) {
				t.Parallel()
				hs := hosts(n)
				weights := make([]uint32, n)
				for i := range weights {
					weights[i] = uint32(1 + i%3)
				}
				p := newPicker(policy, hs, weights, rand.Uint64)
				stop := make(chan struct{})
				var flapping, picking sync.WaitGroup
				flapping.Go(func() {
					for i := 1; ; i++ { // the first one always is up
						select {
						case <-stop:
							return
						default:
							if i%n != 0 {
								hs[i%n].down.Store(i%5 < 2)
							}
						}
					}
				})
				for range 4 {
					picking.Go(func() {
						for range 5000 {
							h, ok := p.Pick(query{})
							if !ok {
								t.Error("nothing is picked though one is up")
								return
							}
							h.inFlight.Add(1)
							h.inFlight.Add(-1)
						}
					})
				}
				picking.Wait()
				close(stop)
				flapping.Wait()
			})
		}
	}
}

func TestWeightsThatAreMissingAreOne(t *testing.T) {
	t.Parallel()
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.LeastRequest} {
		hs := hosts(3)
		got := count(t, newPicker(policy, hs, []uint32{2, 0}, seeded(4)), hs, 400)
		if furthest(got, []float64{200, 100, 100}) > 1 {
			t.Errorf("%v: shares are %v", policy, got)
		}
	}
}

func TestPolicyNames(t *testing.T) {
	t.Parallel()
	for i, name := range []string{
		"round_robin", "least_request", "pick_first", "weighted_round_robin", "ring_hash", "maglev", "ewma", "random",
	} {
		if got, err := balance.ParsePolicy(name); err != nil || got != policies[i] || got.String() != name {
			t.Errorf("ParsePolicy(%q) = %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"ROUND_ROBIN", "rr"} {
		if got, err := balance.ParsePolicy(name); err == nil {
			t.Errorf("ParsePolicy(%q) = %v", name, got)
		}
	}
	if s := balance.Policy(99).String(); s != "Policy(99)" {
		t.Errorf("an unknown policy is %q", s)
	}
}

// TestPickAllocatesNothing is not parallel: AllocsPerRun counts what every
// goroutine allocates.
func TestPickAllocatesNothing(t *testing.T) {
	for _, policy := range policies {
		for _, n := range []int{1, 4, 5, 100} {
			hs := hosts(n)
			weights := make([]uint32, n)
			for i := range weights {
				weights[i] = uint32(1 + i)
			}
			p := newPicker(policy, hs, weights, rand.Uint64)
			skip := func(h *host) bool { return h.id%2 == 1 }
			if got := testing.AllocsPerRun(100, func() { p.Pick(query{}); p.Pick(query{Skip: skip}) }); got != 0 {
				t.Errorf("%v among %d allocates %v times", policy, n, got)
			}
		}
	}
}
