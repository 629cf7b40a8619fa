package balance_test

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// TestLeastRequestHonoursWeightsWhenIdle picks while nothing is under way, so
// that load never tells.
func TestLeastRequestHonoursWeightsWhenIdle(t *testing.T) {
	t.Parallel()
	const picks = 10_000
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "instances")
		hs := hosts(n)
		weights := make([]uint32, n)
		for i, h := range hs {
			weights[i] = rapid.OneOf(rapid.Uint32Range(1, 10), rapid.Uint32Min(1)).Draw(t, "weight")
			h.down.Store(i > 0 && rapid.IntRange(0, 3).Draw(t, "down") == 0)
		}
		p := newPicker(balance.LeastRequest, hs, weights, seeded(rapid.Uint64().Draw(t, "seed")))
		got, want := count(t, p, hs, picks), expected(hs, weights, picks)
		// Shares drawn at random vary by half a percent; six times that does
		// not happen. A few instances that all are up take turns.
		bound := 0.03 * picks
		if n <= 4 && expected(hs, weights, 1)[0] == expectedAllUp(weights) {
			bound = 0.01 * picks
		}
		if off := furthest(got, want); off > bound {
			t.Fatalf("an instance's share is off by %.2f %%: %v, want %.0f", 100*off/picks, got, want)
		}
	})
}

// expectedAllUp returns the first instance's share where all are up.
func expectedAllUp(weights []uint32) float64 {
	return expected(hosts(len(weights)), weights, 1)[0]
}

func TestLeastRequestAmongAFewTakesTheBest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		inFlight []int64
		weights  []uint32
		down     int // -1: none
		best     []int
	}{
		{"fewest", []int64{3, 1, 2, 5}, nil, -1, []int{1}},
		{"ties", []int64{3, 1, 2, 1}, nil, -1, []int{1, 3}},
		{"per weight", []int64{4, 3}, []uint32{4, 1}, -1, []int{0}},
		{"equal per weight", []int64{4, 1}, []uint32{4, 1}, -1, []int{0, 1}},
		{"the best is down", []int64{3, 1, 2}, nil, 1, []int{2}},
		{"a count below zero is none", []int64{-5, 0, 1}, nil, -1, []int{0, 1}},
		{"largest numbers", []int64{1 << 40, 1}, []uint32{1, 1<<32 - 1}, -1, []int{1}},
		{"ties of light ones beside a busy heavy one", []int64{1 << 40, 1, 1, 1}, []uint32{1 << 31, 1, 1, 1}, 0, []int{1, 2, 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			hs := hosts(len(test.inFlight))
			for i, h := range hs {
				h.inFlight.Store(test.inFlight[i])
				h.down.Store(i == test.down)
			}
			const picks = 1000
			got := count(t, newPicker(balance.LeastRequest, hs, test.weights, seeded(8)), hs, picks)
			sum := 0
			for _, i := range test.best {
				if sum += got[i]; got[i] < picks/len(test.best)/2 && test.weights == nil || got[i] == 0 {
					t.Errorf("instance %d of the best %v got %d of %d", i, test.best, got[i], picks)
				}
			}
			if sum != picks {
				t.Errorf("others than %v were picked: %v", test.best, got)
			}
		})
	}
}

// TestLeastRequestEvensOutLoad has RPCs pile up without end. Two choices keep
// the fullest instance within a few RPCs of the mean; one at random would be
// some 30 above it.
func TestLeastRequestEvensOutLoad(t *testing.T) {
	t.Parallel()
	const n, each = 200, 100
	hs := hosts(n)
	weights := make([]uint32, n)
	var sum int64
	for i := range weights {
		weights[i] = uint32(1 + i%2)
		sum += int64(weights[i])
	}
	p := newPicker(balance.LeastRequest, hs, weights, seeded(9))
	for range sum * each {
		h, _ := p.Pick(query{})
		h.inFlight.Add(1)
	}
	for i, h := range hs {
		perWeight := float64(h.inFlight.Load()) / float64(weights[i])
		if perWeight > each+6 {
			t.Errorf("instance %d has %.1f RPCs per weight, the mean is %d", i, perWeight, each)
		}
	}
}

// TestLeastRequestAvoidsASlowInstance keeps ten RPCs under way; one instance
// of ten needs twenty times as long.
func TestLeastRequestAvoidsASlowInstance(t *testing.T) {
	t.Parallel()
	hs := hosts(10)
	p := newPicker(balance.LeastRequest, hs, nil, seeded(10))
	rng := rand.New(rand.NewPCG(10, 10))
	type rpc struct{ host, left int }
	var underWay []rpc
	slow := 0
	const steps = 5000
	for range steps {
		h, _ := p.Pick(query{})
		h.inFlight.Add(1)
		r := rpc{h.id, 1 + rng.IntN(10)}
		if h.id == 0 {
			slow++
			r.left *= 20
		}
		underWay = append(underWay, r)
		rest := underWay[:0]
		for _, r := range underWay {
			if r.left--; r.left > 0 {
				rest = append(rest, r)
			} else {
				hs[r.host].inFlight.Add(-1)
			}
		}
		underWay = rest
	}
	if slow > steps/25 { // a round robin gives it a tenth
		t.Errorf("the slow instance got %d of %d RPCs", slow, steps)
	}
}

// TestLeastRequestWhereMostAreUnusable says that what is left is picked
// evenly, also behind a long run of unusable instances.
func TestLeastRequestWhereMostAreUnusable(t *testing.T) {
	t.Parallel()
	const n, picks = 100, 20_000
	hs := hosts(n)
	weights := make([]uint32, n)
	for i, h := range hs {
		h.down.Store(i < n-8)
		weights[i] = uint32(1 + i%2)
	}
	p := newPicker(balance.LeastRequest, hs, weights, seeded(11))
	got, want := count(t, p, hs, picks), expected(hs, weights, picks)
	if off := furthest(got, want); off > 0.015*picks {
		t.Errorf("an instance's share is off by %.0f RPCs: %v, want %.0f", off, got[n-8:], want[n-8:])
	}
}
