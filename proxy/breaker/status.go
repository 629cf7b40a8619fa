package breaker

import "time"

// Status is a breaker as people see it.
type Status struct {
	State State
	// Since is when the state began; the zero time: with the breaker.
	Since time.Time
	// Until is when an open breaker lets the next RPC be a probe, which may be over;
	// the zero time in other states.
	Until time.Time
	// Reason says why the state began; "" for the first.
	Reason string
	// InARow is the failures in a row, while it is closed.
	InARow int
	// Total, Failures and Slow are the RPCs in the window, while it is closed and
	// shares matter.
	Total, Failures, Slow int
	// Probes is how many are under way, Succeeded how many have succeeded, while it
	// is half-open.
	Probes, Succeeded int
}

// State returns what there is to tell of the breaker.
func (b *Breaker) State(now time.Time) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.period.Load()
	s := Status{
		State: p.state, Since: p.since, Until: p.until, Reason: p.reason,
		InARow: int(p.inARow.Load()), Succeeded: p.successes,
	}
	if p.window != nil {
		p.window.forget(clock(now))
		sum := p.window.sum()
		s.Total, s.Failures, s.Slow = int(sum.total), int(sum.failures), int(sum.slow)
	}
	if p.state == HalfOpen {
		p.room(&b.trip, now)
		s.Probes = len(p.probes)
	}
	return s
}
