package breaker

import "time"

// Look returns what there is to tell of the circuit of a service's method, without
// making one: where no RPC has come yet, that of one that is closed.
func (p *Policy) Look(service, path string, now time.Time) CircuitStatus {
	if p.o.Together {
		path = ""
	}
	m := *p.circuits.Load()
	if c := m[Key{service, path}]; c != nil {
		return c.State(now)
	}
	if len(m) >= MaxCircuits {
		return p.other.State(now)
	}
	return CircuitStatus{}
}
