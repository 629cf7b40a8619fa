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
	// Enough to find two eligible instances, unless most are not, and to have
	// them differ, unless one outweighs all others.
	const draws = 8
	first := -1
	for range draws {
		i := p.draw(p.rnd())
		if i == first || !eligible(p.instances[i], skip) {
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
	return p.pickOfEligible(skip)
}

// pickOfEligible draws two from the eligible instances alone, for which it
// must look at all. What comes first after a run of unusable ones is no more
// likely than others.
func (p *leastRequest[I]) pickOfEligible(skip func(I) bool) (I, bool) {
	var sum uint64
	for i, instance := range p.instances {
		if eligible(instance, skip) {
			sum += uint64(p.weights[i])
		}
	}
	first, second := -1, -1
	drawFirst, _ := bits.Mul64(p.rnd(), sum) // both below sum
	drawSecond, _ := bits.Mul64(p.rnd(), sum)
	sum = 0
	for i, instance := range p.instances {
		if !eligible(instance, skip) {
			continue
		}
		// An instance may have become unusable since they were counted, so the
		// last one stands in for any that is not reached.
		if sum <= drawFirst {
			first = i
		}
		if sum <= drawSecond {
			second = i
		}
		sum += uint64(p.weights[i])
	}
	if first < 0 {
		var none I
		return none, false
	}
	return p.instances[p.lighter(first, second)], true
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
	return load{rpcs: uint64(min(max(p.instances[i].InFlight(), 0), 1<<31)), weight: uint64(p.weights[i])}
}

// load is RPCs under way per weight.
type load struct{ rpcs, weight uint64 }

func (l load) less(m load) bool { return l.rpcs*m.weight < m.rpcs*l.weight }
