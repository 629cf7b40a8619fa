package balance

import (
	"math"

	"github.com/cespare/xxhash/v2"
)

// hashed sends what has the same hash to the same instance, or, while that one
// cannot take it, to the same other one.
type hashed[I Instance] struct {
	set    Set[I]
	rnd    func() uint64
	points points
	keys   []uint64 // the instances' own hashes
	bound  float64  // 0: none
	sum    float64  // of the weights
}

func newHashed[I Instance](set Set[I], rnd func() uint64, bound float64, p points) *hashed[I] {
	h := &hashed[I]{set: set, rnd: rnd, points: p, bound: bound, keys: make([]uint64, len(set.Instances))}
	if set.Load == nil {
		h.bound = 0
	}
	for i, instance := range set.Instances {
		h.keys[i] = xxhash.Sum64String(instance.HashKey())
		h.sum += float64(weightOf(set.Weights, i))
	}
	return h
}

func (p *hashed[I]) Reweighted([]uint32) Picker[I] { return p }

func (p *hashed[I]) Pick(q Query[I]) (I, bool) {
	var none I
	if len(p.set.Instances) == 0 {
		return none, false
	}
	hash := q.Hash
	if !q.Hashed {
		hash = p.rnd()
	}
	perWeight := p.perWeight(&q)
	if i := p.walk(hash, perWeight, &q); i >= 0 {
		return p.set.Instances[i], true
	}
	if i := p.best(hash, perWeight, &q); i >= 0 {
		return p.set.Instances[i], true
	}
	return none, false
}

// walk goes from a hash's point on to the first instance that is eligible and
// within its bound. It gives up, with -1, where most are not.
func (p *hashed[I]) walk(hash uint64, perWeight float64, q *Query[I]) int {
	const most = 64 // instances looked at
	owners := p.points.owners
	at, looked, last := p.points.at(hash), 0, -1
	for range owners {
		if i := int(owners[at]); i != last {
			if q.wants(p.set.Instances[i]) && p.within(i, perWeight) {
				return i
			}
			if looked++; looked == most {
				break
			}
			last = i
		}
		if at++; at == len(owners) {
			at = 0
		}
	}
	return -1
}

// perWeight is how many RPCs an instance may have under way for its weight, those
// to come included. It is infinite where there is no bound.
func (p *hashed[I]) perWeight(q *Query[I]) float64 {
	if p.bound == 0 {
		return math.Inf(1)
	}
	sum := p.sum
	if usable := p.set.Load.usable.Load(); usable > 0 && !q.Panic {
		sum = min(sum, float64(usable))
	}
	return p.bound * float64(p.set.Load.total()+1) / sum
}

// within reports whether an instance may have one more RPC.
func (p *hashed[I]) within(i int, perWeight float64) bool {
	if math.IsInf(perWeight, 1) {
		return true
	}
	return float64(p.set.Instances[i].InFlight()) < math.Ceil(perWeight*float64(weightOf(p.set.Weights, i)))
}

// best looks at all instances: of the eligible ones within their bounds it returns
// the one whose hash together with the RPC's is the highest (rendezvous hashing,
// which, like the points, moves little when one comes or goes). Where all are
// beyond their bounds, as when others cannot be used any more, it returns the one
// that has the least to do for its weight. It is -1 where none is eligible.
func (p *hashed[I]) best(hash uint64, perWeight float64, q *Query[I]) int {
	best, idlest := -1, -1
	var highest uint64
	var least float64
	for i, instance := range p.set.Instances {
		if !q.wants(instance) {
			continue
		}
		if load := float64(instance.InFlight()) / float64(weightOf(p.set.Weights, i)); idlest < 0 || load < least {
			idlest, least = i, load
		}
		if p.within(i, perWeight) {
			if mixed := mix(hash ^ p.keys[i]); best < 0 || mixed > highest {
				best, highest = i, mixed
			}
		}
	}
	if best < 0 {
		return idlest
	}
	return best
}

// mix spreads a number's bits over all 64 (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
