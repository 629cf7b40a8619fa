package balance_test

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

var hashing = []balance.Policy{balance.RingHash, balance.Maglev}

// owners returns which host each of n keys goes to.
func owners(t rapid.TB, p balance.Picker[*host], n int) []*host {
	t.Helper()
	got := make([]*host, n)
	for i := range got {
		h, ok := p.Pick(query{Hash: keyHash(i), Hashed: true})
		if !ok {
			t.Fatal("nothing is picked")
		}
		got[i] = h
	}
	return got
}

// keyHash is what a key hashes to.
func keyHash(i int) uint64 {
	h := uint64(i+1) * 0x9E3779B97F4A7C15
	h = (h ^ h>>32) * 0xD6E8FEB86659FD93
	return h ^ h>>32
}

// TestHashedKeysMoveAsLittleAsMayBe says what moves when one instance comes or goes:
// the keys that it gets or had, and few others.
func TestHashedKeysMoveAsLittleAsMayBe(t *testing.T) {
	t.Parallel()
	const keys = 4000
	rng := rand.New(rand.NewPCG(1, 1))
	for _, policy := range hashing {
		for _, n := range []int{2, 3, 4, 5, 7, 10, 16, 17, 40} {
			for _, weighted := range []bool{false, true} {
				hs := hosts(n + 1)
				weights := make([]uint32, n+1)
				for i := range weights {
					if weights[i] = 1; weighted {
						weights[i] = 1 + rng.Uint32N(4)
					}
				}
				gone := rng.IntN(n + 1)
				hsLeft := slices.Delete(slices.Clone(hs), gone, gone+1)
				weightsLeft := slices.Delete(slices.Clone(weights), gone, gone+1)
				with := owners(t, newPicker(policy, hs, weights, seeded(1)), keys)
				without := owners(t, newPicker(policy, hsLeft, weightsLeft, seeded(2)), keys)
				sideways := 0
				for i := range with {
					if with[i].id != gone && with[i] != without[i] {
						sideways++
					}
				}
				most := 0
				switch {
				case policy == balance.Maglev: // the more the fewer slots each has
					most = 0.06 * keys
				case slices.Min(weightsLeft) != slices.Min(weights):
					most = keys / 2 // a ring is finer or coarser by its least weight
				}
				if sideways > most {
					t.Errorf("%v, weights %v: %d of %d keys move between instances that stay as %d goes",
						policy, weights, sideways, keys, gone)
				}
			}
		}
	}
}

// TestHashedKeysAreTheSameEverywhere says that neither the order of the instances nor
// the sidecar matters.
func TestHashedKeysAreTheSameEverywhere(t *testing.T) {
	t.Parallel()
	for _, policy := range hashing {
		hs := hosts(23)
		weights := make([]uint32, len(hs))
		for i := range weights {
			weights[i] = uint32(1 + i%3)
		}
		want := owners(t, newPicker(policy, hs, weights, seeded(1)), 1000)
		slices.Reverse(hs)
		slices.Reverse(weights)
		if got := owners(t, newPicker(policy, hs, weights, seeded(2)), 1000); !slices.Equal(got, want) {
			t.Errorf("%v: keys go elsewhere where the instances come in another order", policy)
		}
	}
}

// TestHashedKeysGolden says that keys go where they went in earlier versions: sidecars
// of two versions run side by side for as long as a deployment takes.
func TestHashedKeysGolden(t *testing.T) {
	t.Parallel()
	for policy, want := range map[balance.Policy]uint64{
		balance.RingHash: goldenRing,
		balance.Maglev:   goldenMaglev,
	} {
		hs := hosts(7)
		sum := fnv.New64a()
		for _, h := range owners(t, newPicker(policy, hs, []uint32{1, 2, 1, 1, 3, 1, 1}, seeded(1)), 10_000) {
			fmt.Fprint(sum, h.id)
		}
		if got := sum.Sum64(); got != want {
			t.Errorf("%v: keys go elsewhere than before: %#x, want %#x", policy, got, want)
		}
	}
}

func TestHashedSharesFollowWeights(t *testing.T) {
	t.Parallel()
	const keys = 60_000
	for policy, tolerance := range map[balance.Policy]float64{
		balance.RingHash: 0.25, // a ring of 256 points each is off by 6 % at one sigma
		balance.Maglev:   0.05,
	} {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 3, 4}, {5, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {100, 100, 300}} {
			hs := hosts(len(weights))
			counts := make([]int, len(hs))
			for _, h := range owners(t, newPicker(policy, hs, weights, seeded(1)), keys) {
				counts[h.id]++
			}
			for i, want := range expected(hs, weights, keys) {
				if off := math.Abs(float64(counts[i])/want - 1); off > tolerance+3/math.Sqrt(want) {
					t.Errorf("%v, weights %v: instance %d has %d of %d keys, want %.0f", policy, weights, i, counts[i], keys, want)
				}
			}
		}
	}
}

// TestEachHasAPoint says that however heavy others are, an instance gets something,
// and that neither weights nor numbers make a ring or a table without bounds.
func TestEachHasAPoint(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 1000, 10_000} {
		hs := hosts(n)
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = 1
		}
		weights[0] = math.MaxUint32
		for _, policy := range hashing {
			p := newPicker(policy, hs, weights, seeded(1))
			if _, ok := p.Pick(query{Hash: 1, Hashed: true}); !ok {
				t.Errorf("%v of %d: nothing is picked", policy, n)
			}
		}
	}
}

// TestTablesOfAnySize says that no size keeps an instance from finding a slot.
func TestTablesOfAnySize(t *testing.T) {
	t.Parallel()
	for size := range 300 {
		hs := hosts(5)
		set := balance.Set[*host]{Instances: hs, Weights: []uint32{1, 1, 7, 1, 1}}
		p := balance.New(balance.Options{Policy: balance.Maglev, TableSize: size}, set, seeded(1), nil)
		if _, ok := p.Pick(query{Hash: uint64(size), Hashed: true}); !ok {
			t.Errorf("a table of size %d picks nothing", size)
		}
	}
}

// TestHashedKeysOfUnusableInstances says that only the keys of an instance that cannot
// be used move, always to the same others, and come back.
func TestHashedKeysOfUnusableInstances(t *testing.T) {
	t.Parallel()
	const keys = 300
	for _, policy := range hashing {
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(2, 30).Draw(t, "instances")
			hs := hosts(n)
			p := small(policy, hs, nil, seeded(1))
			before := owners(t, p, keys)
			for i := range n - 1 {
				hs[i].down.Store(rapid.IntRange(0, 2).Draw(t, "down") > 0)
			}
			during := owners(t, p, keys)
			for i, h := range during {
				if h.down.Load() {
					t.Fatalf("%v: key %d goes to an instance that is down", policy, i)
				}
				if before[i] != h && !before[i].down.Load() {
					t.Fatalf("%v: key %d moves from an instance that is up", policy, i)
				}
			}
			if again := owners(t, small(policy, hs, nil, seeded(2)), keys); !slices.Equal(again, during) {
				t.Fatalf("%v: another sidecar sends the keys of unusable instances elsewhere", policy)
			}
			for _, h := range hs {
				h.down.Store(false)
			}
			if after := owners(t, p, keys); !slices.Equal(after, before) {
				t.Fatalf("%v: keys do not come back", policy)
			}
		})
	}
}

// TestUnhashedIsSpread says that RPCs without a key go anywhere.
func TestUnhashedIsSpread(t *testing.T) {
	t.Parallel()
	for _, policy := range hashing {
		hs := hosts(4)
		for i, got := range count(t, newPicker(policy, hs, nil, seeded(3)), hs, 4000) {
			if got < 700 || got > 1300 {
				t.Errorf("%v: instance %d got %d of 4000 RPCs without a key", policy, i, got)
			}
		}
	}
}

// TestBoundedLoad has RPCs of few keys begin and end, and instances fail.
func TestBoundedLoad(t *testing.T) {
	t.Parallel()
	for _, policy := range hashing {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(1, 20).Draw(t, "instances")
				bound := rapid.Float64Range(1, 3).Draw(t, "bound")
				hs := hosts(n)
				weights := make([]uint32, n)
				var sum float64
				for i := range weights {
					weights[i] = rapid.Uint32Range(1, 5).Draw(t, "weight")
					sum += float64(weights[i])
				}
				load := new(balance.Load)
				set := balance.Set[*host]{Instances: hs, Weights: weights, Load: load}
				p := balance.New(balance.Options{Policy: policy, TableSize: 1009, BoundedLoad: bound}, set, seeded(1), nil)
				keys := rapid.IntRange(1, 5).Draw(t, "keys")
				var underWay []*host
				for step := range 300 {
					key := keyHash(step % keys)
					h, ok := p.Pick(query{Hash: key, Hashed: true})
					if !ok {
						t.Fatal("nothing is picked")
					}
					most := math.Ceil(bound * float64(len(underWay)+1) * float64(weights[h.id]) / sum)
					if got := h.inFlight.Add(1); float64(got) > most {
						t.Fatalf("instance %d of weight %d has %d of %d RPCs, bound %.2f allows %.0f",
							h.id, weights[h.id], got, len(underWay)+1, bound, most)
					}
					load.RPCs.Add(1)
					if underWay = append(underWay, h); rapid.IntRange(0, 2).Draw(t, "ends") == 0 {
						i := rapid.IntRange(0, len(underWay)-1).Draw(t, "which")
						underWay[i].inFlight.Add(-1)
						load.RPCs.Add(-1)
						underWay = slices.Delete(underWay, i, i+1)
					}
				}
			})
		})
	}
}

// TestBoundedLoadKeepsKeys says that within the bound, keys go where they belong.
func TestBoundedLoadKeepsKeys(t *testing.T) {
	t.Parallel()
	for _, policy := range hashing {
		hs := hosts(5)
		set := balance.Set[*host]{Instances: hs, Load: new(balance.Load)}
		p := balance.New(balance.Options{Policy: policy, BoundedLoad: 1.25}, set, seeded(1), nil)
		if got, want := owners(t, p, 1000), owners(t, newPicker(policy, hs, nil, seeded(1)), 1000); !slices.Equal(got, want) {
			t.Errorf("%v: idle instances do not get their keys", policy)
		}
	}
}

// TestBoundedLoadWhereOthersAreUnusable says that an instance takes more than its
// bound, rather than nobody, and the idlest of them; and that bounds follow from the
// instances that are usable once somebody has looked.
func TestBoundedLoadWhereOthersAreUnusable(t *testing.T) {
	t.Parallel()
	for _, policy := range hashing {
		hs := hosts(4)
		hs[0].down.Store(true)
		hs[1].down.Store(true)
		hs[2].inFlight.Store(30)
		hs[3].inFlight.Store(10)
		load := new(balance.Load)
		load.RPCs.Store(40)
		set := balance.Set[*host]{Instances: hs, Load: load}
		p := balance.New(balance.Options{Policy: policy, BoundedLoad: 1}, set, seeded(1), nil)
		hs[3].inFlight.Store(20)
		for i, h := range owners(t, p, 100) {
			if h.id != 3 {
				t.Fatalf("%v: key %d goes to the busier of two that are beyond their bounds", policy, i)
			}
		}
		hs[2].inFlight.Store(20)
		load.Seen(40, 2)
		got := map[int]bool{}
		for _, h := range owners(t, p, 100) {
			got[h.id] = true
		}
		if !got[2] || !got[3] {
			t.Errorf("%v: of two instances with half of the RPCs each, keys go to %v alone", policy, got)
		}
	}
}

// TestLoadOfRPCsThatWereNotCounted says that a bound that is set while RPCs are under
// way counts them, until they end.
func TestLoadOfRPCsThatWereNotCounted(t *testing.T) {
	t.Parallel()
	hs := hosts(2)
	hs[0].inFlight.Store(100)
	load := new(balance.Load)
	set := balance.Set[*host]{Instances: hs, Load: load}
	p := balance.New(balance.Options{Policy: balance.RingHash, BoundedLoad: 2}, set, seeded(1), nil)
	ofFirst := func() (n int) {
		for _, h := range owners(t, p, 100) {
			if h.id == 0 {
				n++
			}
		}
		return n
	}
	if n := ofFirst(); n > 0 {
		t.Fatalf("%d keys go to an instance with a hundred RPCs of which nobody knows", n)
	}
	load.Changed(100)
	if n := ofFirst(); n == 0 {
		t.Error("no key goes to an instance that has just what its bound allows")
	}
	hs[0].inFlight.Store(40)
	load.Seen(40, 2)
	hs[0].inFlight.Store(42)
	if n := ofFirst(); n > 0 {
		t.Errorf("%d keys go to an instance beyond its bound: RPCs that have ended still count", n)
	}
	load.Seen(60, 2) // others have begun, though that they are counted is not seen yet
	if n := ofFirst(); n > 0 {
		t.Errorf("RPCs that have begun count twice: %d keys go to an instance beyond its bound", n)
	}
}

const (
	goldenRing   = 0x6ba0000d1a35a480
	goldenMaglev = 0x9955226c7b6e2fd
)
