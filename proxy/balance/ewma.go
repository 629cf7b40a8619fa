package balance

// ewma takes the one of two instances that is likely to answer sooner: that with
// the lower product of latency and RPCs under way ("peak EWMA", as in Finagle and
// Linkerd).
type ewma[I Instance] struct {
	twoChoices[I]
	mean float64 // weight
}

// alike is how much quicker an instance must be to be taken before another. With
// less, chance and weight decide: who is quicker by a hair must not get all.
const alike = 0.8

func newEWMA[I Instance](set Set[I], rnd func() uint64) *ewma[I] {
	p := &ewma[I]{twoChoices: newTwoChoices(set, rnd), mean: 1}
	if n := len(p.set.Weights); n > 0 {
		var sum float64
		for _, w := range p.set.Weights {
			sum += float64(w)
		}
		p.mean = sum / float64(n)
	}
	return p
}

func (p *ewma[I]) Reweighted(weights []uint32) Picker[I] {
	return newEWMA(Set[I]{p.set.Instances, weights, p.set.Load}, p.rnd)
}

func (p *ewma[I]) Pick(q Query[I]) (I, bool) {
	first, second := p.draw(&q)
	if first < 0 {
		var none I
		return none, false
	}
	if second >= 0 && second != first && p.sooner(second, first, &q) {
		first = second
	}
	return p.set.Instances[first], true
}

// sooner reports whether instance a is likely to answer clearly sooner than b.
func (p *ewma[I]) sooner(a, b int, q *Query[I]) bool {
	latencyA, latencyB := p.set.Instances[a].Latency(q.Now), p.set.Instances[b].Latency(q.Now)
	if latencyA == 0 || latencyB == 0 {
		// Nothing speaks for or against an instance that has not answered yet.
		latencyA, latencyB = 1, 1
	}
	return latencyA*p.queue(a) < alike*latencyB*p.queue(b)
}

// queue is how many RPCs, with the one to come, an instance of the mean weight
// would have under way where i has what it has.
func (p *ewma[I]) queue(i int) float64 {
	n := float64(max(p.set.Instances[i].InFlight(), 0))
	if p.slots != nil {
		n *= p.mean / float64(p.set.Weights[i])
	}
	return 1 + n
}
