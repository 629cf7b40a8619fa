package balance_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// TestRoundRobinIsExact has instances of equal weight of which any may be
// down: over whole rounds, those that are up get the same to the last RPC.
func TestRoundRobinIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "instances")
		hs := hosts(n)
		up := 0
		for _, h := range hs[1:] {
			h.down.Store(rapid.Bool().Draw(t, "down"))
			if !h.down.Load() {
				up++
			}
		}
		up++
		weight := rapid.Uint32().Draw(t, "weight")
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = weight
		}
		p := newPicker(balance.RoundRobin, hs, weights, seeded(rapid.Uint64().Draw(t, "seed")))
		rounds := rapid.IntRange(1, 5).Draw(t, "rounds")
		for i, got := range count(t, p, hs, up*rounds) {
			if want := rounds; got != want && !hs[i].down.Load() {
				t.Fatalf("instance %d of %d (%d up) got %d RPCs, want %d", i, n, up, got, want)
			}
		}
	})
}

func TestRoundRobinHonoursWeights(t *testing.T) {
	t.Parallel()
	const picks = 10_000
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "instances")
		hs := hosts(n)
		weights := make([]uint32, n)
		for i, h := range hs {
			weights[i] = rapid.OneOf(rapid.Uint32Range(1, 10), rapid.Uint32Range(1, 1000), rapid.Uint32Min(1)).Draw(t, "weight")
			h.down.Store(i > 0 && rapid.IntRange(0, 3).Draw(t, "down") == 0)
		}
		p := newPicker(balance.RoundRobin, hs, weights, seeded(rapid.Uint64().Draw(t, "seed")))
		got, want := count(t, p, hs, picks), expected(hs, weights, picks)
		// Only where one that is down outweighs the others is part of the
		// shares drawn at random, and they vary by half a percent.
		bound := 0.01 * picks
		if slices.ContainsFunc(hs, func(h *host) bool { return h.down.Load() }) {
			bound = 0.03 * picks
		}
		if off := furthest(got, want); off > bound {
			t.Fatalf("an instance's share is off by %.2f %%: %v, want %.0f", 100*off/picks, got, want)
		}
	})
}

// TestRoundRobinInterleaves says that a heavy instance's RPCs do not come in a
// row while a light one waits.
func TestRoundRobinInterleaves(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]uint32{{1, 2}, {9, 1}, {5, 1, 1}, {1, 100}} {
		hs := hosts(len(weights))
		p := newPicker(balance.RoundRobin, hs, weights, seeded(5))
		var sum uint32
		for _, w := range weights {
			sum += w
		}
		last := make([]int, len(weights))
		for i := range 10_000 {
			h, _ := p.Pick(query{})
			if gap := i - last[h.id]; gap > 2*int(sum/weights[h.id])+2*len(weights) {
				t.Errorf("weights %v: instance %d waited %d picks", weights, h.id, gap)
			}
			last[h.id] = i
		}
	}
}

func TestRoundRobinStartsAnywhere(t *testing.T) {
	t.Parallel()
	hs := hosts(10)
	counts := make([]int, len(hs))
	rnd := seeded(6)
	for range 10_000 {
		h, _ := newPicker(balance.RoundRobin, hs, nil, rnd).Pick(query{})
		counts[h.id]++
	}
	for i, got := range counts {
		if got < 800 || got > 1200 {
			t.Errorf("%d of 10000 sidecars begin with instance %d of 10", got, i)
		}
	}
}

// TestRoundRobinIsExactForMany has many goroutines pick at once.
func TestRoundRobinIsExactForMany(t *testing.T) {
	t.Parallel()
	const n, goroutines, each = 7, 8, 7 * 300
	hs := hosts(n)
	p := newPicker(balance.RoundRobin, hs, nil, rand.Uint64)
	var counts [n]atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				h, _ := p.Pick(query{})
				counts[h.id].Add(1)
			}
		})
	}
	wg.Wait()
	for i := range counts {
		if got := counts[i].Load(); got != goroutines*each/n {
			t.Errorf("instance %d got %d RPCs, want %d", i, got, goroutines*each/n)
		}
	}
}

// TestRoundRobinAfterALongRunOfUnusableOnes says that the instance behind the
// run does not inherit the run's share.
func TestRoundRobinAfterALongRunOfUnusableOnes(t *testing.T) {
	t.Parallel()
	for _, weighted := range []bool{false, true} {
		t.Run(fmt.Sprint("weighted=", weighted), func(t *testing.T) {
			t.Parallel()
			const n, picks = 1000, 100_000
			hs := hosts(n)
			weights := make([]uint32, n)
			for i, h := range hs {
				h.down.Store(i < n/2)
				weights[i] = 1
				if weighted {
					weights[i] = uint32(1 + i%5)
				}
			}
			p := newPicker(balance.RoundRobin, hs, weights, seeded(7))
			want := expected(hs, weights, picks)
			for i, got := range count(t, p, hs, picks) {
				if off := float64(got) - want[i]; off < -10 || off > 10 {
					t.Errorf("instance %d got %d RPCs, want %.0f", i, got, want[i])
				}
			}
		})
	}
}
