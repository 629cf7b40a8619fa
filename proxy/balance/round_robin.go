package balance

// roundRobin takes the instances in turn.
type roundRobin[I Instance] struct {
	instances []I
	weights   []uint32
	rnd       func() uint64
	rotation
}

func newRoundRobin[I Instance](instances []I, weights []uint32, rnd func() uint64) *roundRobin[I] {
	p := &roundRobin[I]{instances: instances, weights: weights, rnd: rnd}
	p.shares = newShares(len(instances), weights)
	// Sidecars that start together must not all begin with the same instance.
	p.start(rnd())
	return p
}

func (p *roundRobin[I]) Pick(skip func(I) bool) (I, bool) {
	if len(p.instances) == 0 {
		var none I
		return none, false
	}
	if instance := p.instances[p.turn()]; eligible(instance, skip) {
		return instance, true
	}
	return p.pickNext(skip)
}

// pickNext goes through the coming turns to the first of an eligible instance,
// and moves the rotation beyond it. If it merely took the instance, whoever
// comes after a run of unusable ones would get all of the run's RPCs.
func (p *roundRobin[I]) pickNext(skip func(I) bool) (I, bool) {
	// Others may move the rotation meanwhile, so that the turn found is taken
	// twice; it is worth looking again, but not for ever.
	const tries = 4
	for try := 1; ; try++ {
		position := p.next.Load()
		instance, turns, ok := p.find(position, skip)
		if p.next.CompareAndSwap(position, position+turns) || try == tries || !ok {
			return instance, ok
		}
	}
}

// find returns the first eligible instance from a position on, and how many
// turns are over once it has had its own.
func (p *roundRobin[I]) find(position uint64, skip func(I) bool) (instance I, turns uint64, ok bool) {
	for ahead := range p.n {
		if instance = p.instances[p.at(position+ahead)]; eligible(instance, skip) {
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
	if i, _ := drawEligible(p.instances, p.weights, skip, random, random); i >= 0 {
		return p.instances[i], p.n, true
	}
	return none, p.n, false
}
