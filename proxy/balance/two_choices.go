package balance

import "math/bits"

// twoChoices draws two instances, so that the better one can be taken: nearly
// as good as to look at all, and nobody has to (Mitzenmacher, "The power of two
// choices in randomized load balancing", 2001).
type twoChoices[I Instance] struct {
	set Set[I]
	rnd func() uint64
	shares
}

func newTwoChoices[I Instance](set Set[I], rnd func() uint64) twoChoices[I] {
	weights := make([]uint32, len(set.Instances))
	for i := range weights {
		weights[i] = weightOf(set.Weights, i)
	}
	set.Weights = weights
	return twoChoices[I]{set: set, rnd: rnd, shares: newShares(len(weights), weights)}
}

// draw draws two eligible instances by weight. The second is -1, or the first
// again, where just one was found, and the first is -1 where there is none.
// Shares follow the weights as long as the first is taken.
func (p *twoChoices[I]) draw(q *Query[I]) (first, second int) {
	if len(p.set.Instances) == 0 {
		return -1, -1
	}
	const draws = 8 // enough to find two eligible instances, unless most are not
	first, again := -1, false
	for range draws {
		i := p.shares.draw(p.rnd())
		if i == first {
			if again { // it outweighs the others
				return first, p.other(first, q)
			}
			again = true
			continue
		}
		if !q.wants(p.set.Instances[i]) {
			continue
		}
		if first >= 0 {
			return first, i
		}
		first = i
	}
	if first >= 0 {
		return first, -1
	}
	return drawEligible(&p.set, q, p.rnd(), p.rnd())
}

// other draws an eligible instance other than the first, whatever its weight: it will
// be taken only if it is better. It is -1 where none is found soon.
func (p *twoChoices[I]) other(first int, q *Query[I]) int {
	const most = 8
	n := len(p.set.Instances)
	at, _ := bits.Mul64(p.rnd(), uint64(n))
	i := int(at)
	for range min(n, most) {
		if i != first && q.wants(p.set.Instances[i]) {
			return i
		}
		if i++; i == n {
			i = 0
		}
	}
	return -1
}
