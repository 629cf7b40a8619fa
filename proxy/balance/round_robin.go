package balance

// roundRobin takes the instances in turn.
type roundRobin[I Instance] struct {
	instances []I
	rotation
}

func newRoundRobin[I Instance](instances []I, weights []uint32, rnd func() uint64) *roundRobin[I] {
	p := &roundRobin[I]{instances: instances}
	p.shares = newShares(len(instances), weights)
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
		ahead, instance, ok := p.find(position, skip)
		if !ok || p.next.CompareAndSwap(position, position+ahead+1) || try == tries {
			return instance, ok
		}
	}
}

// find returns the first eligible instance from a position on, and how many
// turns are before its own.
func (p *roundRobin[I]) find(position uint64, skip func(I) bool) (ahead uint64, instance I, ok bool) {
	for ahead := range p.n {
		if instance := p.instances[p.at(position+ahead)]; eligible(instance, skip) {
			return ahead, instance, true
		}
	}
	if p.slots != nil {
		// Light instances may have no turn in a round. They are looked for in
		// their own slots.
		for ahead := range p.n {
			if instance := p.instances[(position+ahead)%p.n]; eligible(instance, skip) {
				return ahead, instance, true
			}
		}
	}
	return 0, instance, false
}
