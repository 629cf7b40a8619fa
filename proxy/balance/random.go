package balance

// random draws an instance by weight.
type random[I Instance] struct {
	set Set[I]
	rnd func() uint64
	shares
}

func newRandom[I Instance](set Set[I], rnd func() uint64) *random[I] {
	return &random[I]{set: set, rnd: rnd, shares: newShares(len(set.Instances), set.Weights)}
}

func (p *random[I]) Reweighted(weights []uint32) Picker[I] {
	return newRandom(Set[I]{p.set.Instances, weights, p.set.Load}, p.rnd)
}

func (p *random[I]) Pick(q Query[I]) (I, bool) {
	var none I
	if len(p.set.Instances) == 0 {
		return none, false
	}
	const draws = 8 // enough to find an eligible instance, unless most are not
	for range draws {
		if instance := p.set.Instances[p.draw(p.rnd())]; q.wants(instance) {
			return instance, true
		}
	}
	drawn := p.rnd()
	if i, _ := drawEligible(&p.set, &q, drawn, drawn); i >= 0 {
		return p.set.Instances[i], true
	}
	return none, false
}
