package balance

import "math/bits"

// few is up to how many instances leastRequest looks at all of them: two of
// three or four chosen at random would often both be busy ones.
const few = 4

// leastRequest takes the instance with fewer RPCs under way for its weight.
type leastRequest[I Instance] struct {
	instances []I
	weights   []uint32
	rnd       func() uint64
	rotation  // for a few; among many its position is not used
}

func newLeastRequest[I Instance](instances []I, weights []uint32, rnd func() uint64) *leastRequest[I] {
	p := &leastRequest[I]{instances: instances, weights: make([]uint32, len(instances)), rnd: rnd}
	for i := range p.weights {
		p.weights[i] = weightOf(weights, i)
	}
	p.shares = newShares(len(instances), p.weights)
	p.start(rnd())
	return p
}

func (p *leastRequest[I]) Pick(skip func(I) bool) (I, bool) {
	if len(p.instances) <= few {
		return p.pickOfAll(skip)
	}
	return p.pickOfTwo(skip)
}

// pickOfAll looks at every instance. Among equally good ones the weights
// decide: where nothing is under way anywhere, this is a round robin.
func (p *leastRequest[I]) pickOfAll(skip func(I) bool) (best I, ok bool) {
	var tied uint // a bit for each instance that is as good as the best
	var least load
	for i, instance := range p.instances {
		if !eligible(instance, skip) {
			continue
		}
		l := p.load(i)
		switch {
		case tied == 0 || l.less(least):
			tied, least = 1<<i, l
		case !least.less(l):
			tied |= 1 << i
		}
	}
	if tied == 0 {
		return best, false
	}
	if tied == 1<<len(p.instances)-1 {
		return p.instances[p.turn()], true
	}
	return p.instances[p.drawOf(tied)], true
}

// drawOf draws by weight one of the instances that have a bit in set, which is
// not empty.
func (p *leastRequest[I]) drawOf(set uint) int {
	if set&(set-1) == 0 {
		return bits.TrailingZeros(set)
	}
	var sum uint64
	for rest := set; rest != 0; rest &= rest - 1 {
		sum += uint64(p.weights[bits.TrailingZeros(rest)])
	}
	drawn, _ := bits.Mul64(p.rnd(), sum) // below sum
	for {
		i := bits.TrailingZeros(set)
		if weight := uint64(p.weights[i]); drawn >= weight {
			drawn -= weight
			set &= set - 1
			continue
		}
		return i
	}
}

// pickOfTwo draws two instances by weight. On equal load the first of them
// wins, so that the shares follow the weights where load does not tell.
func (p *leastRequest[I]) pickOfTwo(skip func(I) bool) (I, bool) {
	const draws = 8 // enough to find two eligible instances, unless most are not
	first, again := -1, false
	for range draws {
		i := p.draw(p.rnd())
		if i == first {
			if again { // it outweighs the others
				break
			}
			again = true
			continue
		}
		if !eligible(p.instances[i], skip) {
			continue
		}
		if first >= 0 {
			return p.instances[p.lighter(first, i)], true
		}
		first = i
	}
	if first >= 0 {
		return p.instances[first], true
	}
	a, b := drawEligible(p.instances, p.weights, skip, p.rnd(), p.rnd())
	if a < 0 {
		var none I
		return none, false
	}
	return p.instances[p.lighter(a, b)], true
}

// lighter returns which of two instances has less to do, a if they are equal.
func (p *leastRequest[I]) lighter(a, b int) int {
	if p.load(b).less(p.load(a)) {
		return b
	}
	return a
}

func (p *leastRequest[I]) load(i int) load {
	// The bounds keep the product of a count and a weight within 63 bits.
	l := load{rpcs: uint64(min(max(p.instances[i].InFlight(), 0), 1<<31)), weight: 1}
	if p.slots != nil { // where all are equal, spare the memory access
		l.weight = uint64(p.weights[i])
	}
	return l
}

// load is RPCs under way per weight.
type load struct{ rpcs, weight uint64 }

func (l load) less(m load) bool { return l.rpcs*m.weight < m.rpcs*l.weight }
