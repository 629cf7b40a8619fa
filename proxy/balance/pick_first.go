package balance

import "sync/atomic"

// pickFirst takes the first usable instance.
type pickFirst[I Instance] struct {
	instances []I
	current   atomic.Int64
}

func (p *pickFirst[I]) Pick(skip func(I) bool) (I, bool) {
	var none I
	if len(p.instances) == 0 {
		return none, false
	}
	current := p.current.Load()
	usable := p.instances[current].Usable()
	if usable && (skip == nil || !skip(p.instances[current])) {
		return p.instances[current], true
	}
	for i, instance := range p.instances {
		if !instance.Usable() {
			continue
		}
		if !usable { // else only this RPC does not want the current one
			p.current.CompareAndSwap(current, int64(i))
			usable = true
		}
		if skip == nil || !skip(instance) {
			return instance, true
		}
	}
	return none, false
}
