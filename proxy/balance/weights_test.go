package balance_test

import (
	"math"
	"slices"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// TestSharesFollowWeights has each policy that goes by weights pick among instances
// that nothing else tells apart.
func TestSharesFollowWeights(t *testing.T) {
	t.Parallel()
	const picks = 40_000
	for _, policy := range []balance.Policy{
		balance.RoundRobin, balance.WeightedRoundRobin, balance.LeastRequest, balance.Random, balance.EWMA,
	} {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 3, 4}, {1, 1, 2, 2, 4, 4, 8, 8}, {1, 9}} {
			for _, down := range []int{-1, 0} {
				hs := hosts(len(weights))
				if down >= 0 {
					hs[down].down.Store(true)
				}
				got := count(t, newPicker(policy, hs, weights, seeded(1)), hs, picks)
				for i, want := range expected(hs, weights, picks) {
					// Five sigma of what chance does.
					if off := math.Abs(float64(got[i]) - want); off > 5*math.Sqrt(want)+1 {
						t.Errorf("%v, weights %v, down %d: instance %d got %d RPCs, want %.0f", policy, weights, down, i, got[i], want)
					}
				}
			}
		}
	}
}

// TestReweightedGoesOn says that new weights hold at once, and that a rotation goes on
// where it was: one that is made anew for each RPC still is one.
func TestReweightedGoesOn(t *testing.T) {
	t.Parallel()
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.LeastRequest} {
		hs := hosts(3)
		p := newPicker(policy, hs, nil, seeded(1))
		counts := make([]int, 3)
		for range 300 {
			h, _ := p.Pick(query{})
			counts[h.id]++
			p = p.Reweighted([]uint32{1, 1, 1})
		}
		if !slices.Equal(counts, []int{100, 100, 100}) {
			t.Errorf("%v: a rotation that is made anew each time gives %v", policy, counts)
		}
	}
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.LeastRequest, balance.Random, balance.EWMA} {
		hs := hosts(2)
		p := newPicker(policy, hs, nil, seeded(1)).Reweighted([]uint32{1, 9})
		if got := count(t, p, hs, 1000); got[1] < 850 || got[1] > 950 {
			t.Errorf("%v: with weights 1 and 9, they get %v", policy, got)
		}
	}
	for _, policy := range []balance.Policy{balance.RingHash, balance.Maglev, balance.PickFirst} {
		p := newPicker(policy, hosts(2), nil, seeded(1))
		if p.Reweighted([]uint32{1, 9}) != p {
			t.Errorf("%v moves with weights", policy)
		}
	}
}

// TestNewSetGoesOn says the same of instances that come or go.
func TestNewSetGoesOn(t *testing.T) {
	t.Parallel()
	hs := hosts(4)
	set := func(of ...int) (s balance.Set[*host]) {
		for _, i := range of {
			s.Instances = append(s.Instances, hs[i])
		}
		return s
	}
	first := balance.Options{Policy: balance.PickFirst}
	p := balance.New(first, set(1, 2, 3), seeded(1), nil)
	hs[1].down.Store(true)
	h, _ := p.Pick(query{})
	hs[1].down.Store(false)
	p = balance.New(first, set(0, 1, 2, 3), seeded(1), p)
	if again, _ := p.Pick(query{}); again != h || h.id != 2 {
		t.Errorf("pick_first went from %d to %d as another instance came", h.id, again.id)
	}
	p = balance.New(first, set(0, 1, 3), seeded(1), p)
	if h, _ := p.Pick(query{}); h.id != 0 {
		t.Errorf("pick_first went to %d as its instance was gone", h.id)
	}
	p = balance.New(first, set(3, 0), seeded(1), p)
	if h, _ := p.Pick(query{}); h.id != 3 {
		t.Errorf("pick_first stays with %d, which it never chose, as another is put before it", h.id)
	}

	turns := balance.Options{Policy: balance.RoundRobin}
	counts := make([]int, 4)
	p = balance.New(turns, set(0, 1, 2), seeded(1), nil)
	for range 300 {
		p = balance.New(turns, set(0, 1, 2), seeded(1), p)
		h, _ := p.Pick(query{})
		counts[h.id]++
	}
	if !slices.Equal(counts, []int{100, 100, 100, 0}) {
		t.Errorf("a rotation that is made anew each time gives %v", counts)
	}
}

// TestPeekChangesNothing says that what is shown is what comes, where chance does not
// decide, however often it is shown.
func TestPeekChangesNothing(t *testing.T) {
	t.Parallel()
	for _, policy := range []balance.Policy{
		balance.RoundRobin, balance.LeastRequest, balance.PickFirst, balance.RingHash, balance.Maglev,
	} {
		hs := hosts(4)
		hs[0].down.Store(policy == balance.PickFirst || policy == balance.RoundRobin)
		p := newPicker(policy, hs, []uint32{1, 2, 3, 4}, seeded(1))
		for i := range 200 {
			q := query{Hash: keyHash(i), Hashed: true, Peek: true}
			first, _ := p.Pick(q)
			second, _ := p.Pick(q)
			q.Peek = false
			if picked, _ := p.Pick(q); first != picked || second != picked {
				t.Fatalf("%v: shown %d and %d, picked %d", policy, first.id, second.id, picked.id)
			}
		}
	}
	hs := hosts(2)
	hs[0].down.Store(true)
	p := newPicker(balance.PickFirst, hs, nil, seeded(1))
	p.Pick(query{Peek: true})
	hs[0].down.Store(false)
	if h, _ := p.Pick(query{}); h.id != 0 {
		t.Error("pick_first stays with what was only shown")
	}
}

// TestPanicUsesWhatCanBeReached says that a query may have instances that are not
// well, though none that cannot be reached.
func TestPanicUsesWhatCanBeReached(t *testing.T) {
	t.Parallel()
	for _, policy := range policies {
		for _, n := range []int{3, 12} {
			hs := hosts(n)
			for i, h := range hs {
				h.down.Store(i > 0)
				h.lost.Store(i%3 == 2)
			}
			p := newPicker(policy, hs, nil, seeded(1))
			got := map[int]bool{}
			for i := range 2000 {
				h, ok := p.Pick(query{Panic: true, Hash: keyHash(i), Hashed: true})
				if !ok || h.lost.Load() && h.down.Load() {
					t.Fatalf("%v: picked %v, %v", policy, h, ok)
				}
				got[h.id] = true
			}
			want := n - n/3
			if policy == balance.PickFirst {
				want = 1
			}
			if len(got) != want {
				t.Errorf("%v in panic uses %d of %d instances, want %d", policy, len(got), n, want)
			}
			for _, h := range hs {
				h.lost.Store(true)
				h.down.Store(true)
			}
			if h, ok := p.Pick(query{Panic: true}); ok {
				t.Errorf("%v picks %d, which cannot be reached", policy, h.id)
			}
		}
	}
}
