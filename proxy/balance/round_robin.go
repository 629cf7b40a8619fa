package balance

// roundRobin takes the instances in turn.
type roundRobin[I Instance] struct {
	set Set[I]
	rnd func() uint64
	rotation
}

func newRoundRobin[I Instance](set Set[I], rnd func() uint64, before Picker[I]) *roundRobin[I] {
	p := &roundRobin[I]{set: set, rnd: rnd}
	p.shares = newShares(len(set.Instances), set.Weights)
	if before, ok := before.(*roundRobin[I]); ok {
		p.next.Store(before.next.Load())
	} else {
		// Sidecars that start together must not all begin with the same instance.
		p.start(rnd())
	}
	return p
}

func (p *roundRobin[I]) Reweighted(weights []uint32) Picker[I] {
	return newRoundRobin(Set[I]{p.set.Instances, weights, p.set.Load}, p.rnd, Picker[I](p))
}

func (p *roundRobin[I]) Pick(q Query[I]) (I, bool) {
	var none I
	if len(p.set.Instances) == 0 {
		return none, false
	}
	if q.Peek {
		instance, _, ok := p.find(p.next.Load(), &q)
		return instance, ok
	}
	if instance := p.set.Instances[p.turn()]; q.wants(instance) {
		return instance, true
	}
	return p.pickNext(&q)
}

// pickNext goes through the coming turns to the first of an eligible instance,
// and moves the rotation beyond it. If it merely took the instance, whoever
// comes after a run of unusable ones would get all of the run's RPCs.
func (p *roundRobin[I]) pickNext(q *Query[I]) (I, bool) {
	// Others may move the rotation meanwhile, so that the turn found is taken
	// twice; it is worth looking again, but not for ever.
	const tries = 4
	for try := 1; ; try++ {
		position := p.next.Load()
		instance, turns, ok := p.find(position, q)
		if p.next.CompareAndSwap(position, position+turns) || try == tries || !ok {
			return instance, ok
		}
	}
}

// find returns the first eligible instance from a position on, and how many
// turns are over once it has had its own.
func (p *roundRobin[I]) find(position uint64, q *Query[I]) (instance I, turns uint64, ok bool) {
	for ahead := range p.n {
		if instance = p.set.Instances[p.at(position+ahead)]; q.wants(instance) {
			return instance, ahead + 1, true
		}
	}
	var none I
	if p.slots == nil {
		return none, p.n, false
	}
	// Light instances may have no turn in a round. Those that are eligible
	// share the RPCs of such a round.
	random := p.rnd()
	if i, _ := drawEligible(&p.set, q, random, random); i >= 0 {
		return p.set.Instances[i], p.n, true
	}
	return none, p.n, false
}
