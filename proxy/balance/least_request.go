package balance

import "math/bits"

// few is up to how many instances leastRequest looks at all of them: two of
// three or four chosen at random would often both be busy ones.
const few = 4

// leastRequest takes the instance with fewer RPCs under way for its weight.
type leastRequest[I Instance] struct {
	twoChoices[I]
	turns rotation // among a few, where nothing else tells them apart
}

func newLeastRequest[I Instance](set Set[I], rnd func() uint64, before Picker[I]) *leastRequest[I] {
	p := &leastRequest[I]{twoChoices: newTwoChoices(set, rnd)}
	p.turns.shares = p.shares
	if before, ok := before.(*leastRequest[I]); ok {
		p.turns.next.Store(before.turns.next.Load())
	} else {
		p.turns.start(rnd())
	}
	return p
}

func (p *leastRequest[I]) Reweighted(weights []uint32) Picker[I] {
	return newLeastRequest(Set[I]{p.set.Instances, weights, p.set.Load}, p.rnd, Picker[I](p))
}

func (p *leastRequest[I]) Pick(q Query[I]) (I, bool) {
	if len(p.set.Instances) <= few {
		return p.pickOfAll(&q)
	}
	return p.pickOfTwo(&q)
}

// pickOfAll looks at every instance. Among equally good ones the weights
// decide: where nothing is under way anywhere, this is a round robin.
func (p *leastRequest[I]) pickOfAll(q *Query[I]) (best I, ok bool) {
	var tied uint // a bit for each instance that is as good as the best
	var least load
	for i, instance := range p.set.Instances {
		if !q.wants(instance) {
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
	switch {
	case tied == 0:
		return best, false
	case tied != 1<<len(p.set.Instances)-1:
		return p.set.Instances[p.drawOf(tied)], true
	case q.Peek:
		return p.set.Instances[p.turns.at(p.turns.next.Load())], true
	}
	return p.set.Instances[p.turns.turn()], true
}

// drawOf draws by weight one of the instances that have a bit in set, which is
// not empty.
func (p *leastRequest[I]) drawOf(set uint) int {
	if set&(set-1) == 0 {
		return bits.TrailingZeros(set)
	}
	var sum uint64
	for rest := set; rest != 0; rest &= rest - 1 {
		sum += uint64(p.set.Weights[bits.TrailingZeros(rest)])
	}
	drawn, _ := bits.Mul64(p.rnd(), sum) // below sum
	for {
		i := bits.TrailingZeros(set)
		if weight := uint64(p.set.Weights[i]); drawn >= weight {
			drawn -= weight
			set &= set - 1
			continue
		}
		return i
	}
}

// pickOfTwo takes the lighter of two that are drawn by weight. On equal load the
// first of them wins, so that the shares follow the weights where load does not
// tell.
func (p *leastRequest[I]) pickOfTwo(q *Query[I]) (I, bool) {
	first, second := p.draw(q)
	if first < 0 {
		var none I
		return none, false
	}
	if second >= 0 && p.load(second).less(p.load(first)) {
		first = second
	}
	return p.set.Instances[first], true
}

func (p *leastRequest[I]) load(i int) load {
	// The bounds keep the product of a count and a weight within 63 bits.
	l := load{rpcs: uint64(min(max(p.set.Instances[i].InFlight(), 0), 1<<31)), weight: 1}
	if p.slots != nil { // where all are equal, spare the memory access
		l.weight = uint64(p.set.Weights[i])
	}
	return l
}

// load is RPCs under way per weight.
type load struct{ rpcs, weight uint64 }

func (l load) less(m load) bool { return l.rpcs*m.weight < m.rpcs*l.weight }
