package breaker

import (
	"fmt"
	"sync/atomic"
	"time"
)

// period is what a breaker knows while it is in one state. It is replaced with the
// state, so that a result that comes late finds the numbers it belongs to, and those
// of the next state stay clean.
type period struct {
	state   State
	since   time.Time     // when it began; the zero time: with the breaker
	until   time.Time     // when it ends; Open alone
	openFor time.Duration // how long the last Open was, this one included; 0: there was none
	reason  string        // why it began
	cause   string        // why the breaker opened; Open and HalfOpen alone

	// Closed.
	inARow atomic.Int64 // failures
	window *window      // nil: shares do not matter

	// HalfOpen. The breaker's lock guards them.
	successes int
	last      uint32 // the number of the last probe
	probes    []probe
}

// probe is an RPC under way in a half-open period.
type probe struct {
	number  uint32
	expires time.Time // when it is not waited for any more
}

func (b *Breaker) newPeriod(s State, now time.Time) *period {
	p := &period{state: s, since: now}
	if s == Closed && b.trip.shares() {
		p.window = newWindow(b.trip.Window)
	}
	return p
}

// refuses says that an open period lasts still.
func (p *period) refuses(now time.Time) bool { return p.state == Open && now.Before(p.until) }

// count counts a result of a closed period, and opens the breaker where it must. It
// says whether it did.
func (p *period) count(b *Breaker, now time.Time, failed, slow bool) bool {
	trip := &b.trip
	broken := false
	if failed {
		n := p.inARow.Add(1)
		broken = trip.ConsecutiveFailures > 0 && n >= int64(trip.ConsecutiveFailures)
	} else if p.inARow.Load() != 0 {
		p.inARow.Store(0)
	}
	if p.window != nil && p.window.add(&b.mu, now, failed, slow).broken(trip) {
		broken = true
	}
	return broken && b.trips(p, now)
}

// trips opens a closed breaker if a condition holds when looked at exactly.
func (b *Breaker) trips(p *period, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.period.Load() != p {
		return false
	}
	reason := b.why(p)
	if reason == "" {
		return false
	}
	b.open(now, reason)
	return true
}

// why names the condition that holds, "" if none does. b.mu is held.
func (b *Breaker) why(p *period) string {
	trip := &b.trip
	if n := p.inARow.Load(); trip.ConsecutiveFailures > 0 && n >= int64(trip.ConsecutiveFailures) {
		return fmt.Sprintf("%d failures in a row", n)
	}
	if p.window == nil {
		return ""
	}
	sum := p.window.sum()
	if sum.failing(trip) {
		return fmt.Sprintf("%d of %d RPCs in %v failed, at least a share of %v", sum.failures, sum.total, trip.Window, trip.FailureRatio)
	}
	if sum.slowing(trip) {
		return fmt.Sprintf("%d of %d RPCs in %v took longer than %v, at least a share of %v", sum.slow, sum.total, trip.Window, trip.SlowCall, trip.SlowCallRatio)
	}
	return ""
}

// room says whether one more probe may begin. The breaker's lock is held.
func (p *period) room(t *Trip, now time.Time) bool {
	gone := 0
	for gone < len(p.probes) && !now.Before(p.probes[gone].expires) {
		gone++
	}
	p.probes = p.probes[:copy(p.probes, p.probes[gone:])]
	return len(p.probes) < t.Probes
}

// addProbe notes a probe that begins. The breaker's lock is held.
func (p *period) addProbe(expires time.Time) uint32 {
	p.last++
	p.probes = append(p.probes, probe{p.last, expires})
	return p.last
}

// removeProbe gives its place to another, if it still has it. The breaker's lock is
// held.
func (p *period) removeProbe(number uint32) {
	for i := range p.probes {
		if p.probes[i].number == number {
			p.probes = append(p.probes[:i], p.probes[i+1:]...)
			return
		}
	}
}
