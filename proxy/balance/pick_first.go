package balance

import "sync/atomic"

// pickFirst takes the first usable instance.
type pickFirst[I Instance] struct {
	instances []I
	current   atomic.Int64
}

func newPickFirst[I Instance](instances []I, before Picker[I]) *pickFirst[I] {
	p := &pickFirst[I]{instances: instances}
	if before, ok := before.(*pickFirst[I]); ok && len(before.instances) > 0 {
		was := before.current.Load()
		for i, instance := range instances {
			// The first of them is where it started, not what it chose: it gives
			// way to one that is put before it.
			if was > 0 && instance == before.instances[was] {
				p.current.Store(int64(i))
				break
			}
		}
	}
	return p
}

func (p *pickFirst[I]) Reweighted([]uint32) Picker[I] { return p }

func (p *pickFirst[I]) Pick(q Query[I]) (I, bool) {
	var none I
	if len(p.instances) == 0 {
		return none, false
	}
	current := p.current.Load()
	usable := p.instances[current].Usable()
	if usable && (q.Skip == nil || !q.Skip(p.instances[current])) {
		return p.instances[current], true
	}
	for i, instance := range p.instances {
		if !instance.Usable() && !(q.Panic && instance.Reachable()) {
			continue
		}
		if !usable && !q.Peek { // else only this RPC does not want the current one
			p.current.CompareAndSwap(current, int64(i))
			usable = true
		}
		if q.Skip == nil || !q.Skip(instance) {
			return instance, true
		}
	}
	return none, false
}
