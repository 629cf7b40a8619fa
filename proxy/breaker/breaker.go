package breaker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// State is what a breaker does with RPCs.
type State uint8

// The states.
const (
	Closed   State = iota // all begin
	Open                  // none begins
	HalfOpen              // a few begin, to see whether it is well again
)

// String returns the state's name for people and metrics.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	default:
		return "half-open"
	}
}

// Outcome is how an RPC ended, in a breaker's eyes.
type Outcome uint8

// The outcomes.
const (
	// Success: the destination did what it should, be it that it refused what was
	// wrong with the request.
	Success Outcome = iota
	// Failure: it did not.
	Failure
	// Ignored: the end says nothing about the destination.
	Ignored
)

// Transition is a change of a breaker's state.
type Transition struct {
	From, To State
	// Reason says why, with its numbers.
	Reason string
	At     time.Time
	// OpenFor is how long no RPC begins; 0 unless To is Open.
	OpenFor time.Duration
}

// Ticket is what a breaker gives an RPC that may begin. The zero value is none's.
type Ticket struct {
	period *period
	probe  uint32 // its number among the probes, from 1 on; 0: it is none
}

// Breaker is a circuit breaker. It is safe for concurrent use.
type Breaker struct {
	trip    Trip
	changed func(Transition)
	period  atomic.Pointer[period]

	mu      sync.Mutex   // guards changes of period, and what follows
	untold  []Transition // changed was not called for them yet
	telling bool         // somebody is calling it
}

// New returns a closed breaker; what t leaves out has its default. changed, which
// may be nil, is called for each transition, in their order and one at a time, by
// whoever's call made it or by another caller, with no lock of the breaker held.
func New(t Trip, changed func(Transition)) *Breaker {
	b := &Breaker{trip: t.WithDefaults(), changed: changed}
	b.period.Store(b.newPeriod(Closed, time.Time{}))
	return b
}

// Allow says whether an RPC may begin now. If so, Done has to be called with the
// ticket when it has ended.
func (b *Breaker) Allow(now time.Time) (Ticket, bool) {
	t, ok := b.allow(now)
	if t.probe > 0 { // what becomes half-open has room for it
		b.tell()
	}
	return t, ok
}

// Ready says whether Allow would let an RPC begin now, at the price of a look: for
// choosing among several breakers' instances.
func (b *Breaker) Ready(now time.Time) bool {
	p := b.period.Load()
	switch p.state {
	case Closed:
		return true
	case Open:
		return !p.refuses(now)
	default:
		b.mu.Lock()
		defer b.mu.Unlock()
		return p.room(&b.trip, now)
	}
}

// allow is Allow without telling of the transition.
func (b *Breaker) allow(now time.Time) (Ticket, bool) {
	p := b.period.Load()
	switch {
	case p.state == Closed:
		return Ticket{period: p}, true
	case p.refuses(now):
		return Ticket{}, false
	}
	return b.probe(now)
}

// Cause says why the breaker opened, "" while it is closed.
func (b *Breaker) Cause() string { return b.period.Load().cause }

// probe decides for a breaker whose state only the lock can tell.
func (b *Breaker) probe(now time.Time) (Ticket, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.period.Load()
	switch {
	case p.state == Closed:
		return Ticket{period: p}, true
	case p.refuses(now):
		return Ticket{}, false
	case p.state == Open:
		p = b.enter(HalfOpen, now, fmt.Sprintf("it was open for %v", p.openFor))
	}
	if !p.room(&b.trip, now) {
		return Ticket{}, false
	}
	return Ticket{period: p, probe: p.addProbe(now.Add(b.trip.OpenFor))}, true
}

// Done says how an RPC with a ticket ended. firstByte is the time to the first byte
// of the answer, or to the end where there was none. The RPC's ticket is worth
// nothing afterwards.
func (b *Breaker) Done(now time.Time, t Ticket, o Outcome, firstByte time.Duration) {
	if b.done(now, t, o, firstByte) {
		b.tell()
	}
}

// done is Done without telling of the transition: it says whether there may be one.
func (b *Breaker) done(now time.Time, t Ticket, o Outcome, firstByte time.Duration) bool {
	switch p := t.period; {
	case p == nil:
		return false
	case p.state == Closed: // now, or once: then its numbers mean nothing any more
		return o != Ignored && p.count(b, now, o == Failure, b.trip.slow(firstByte))
	}
	return b.probed(now, t, o, b.trip.slow(firstByte))
}

// probed takes the result of a probe.
func (b *Breaker) probed(now time.Time, t Ticket, o Outcome, slow bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.period.Load()
	if p != t.period {
		return false
	}
	p.removeProbe(t.probe)
	switch {
	case o == Ignored:
		return false
	case o == Failure:
		b.open(now, "a probe failed")
	case slow:
		b.open(now, fmt.Sprintf("a probe took longer than %v", b.trip.SlowCall))
	default:
		p.successes++
		if p.successes < b.trip.Probes {
			return false
		}
		b.enter(Closed, now, fmt.Sprintf("%d probes in a row succeeded", p.successes))
	}
	return true
}

// open opens the breaker, for as long as the way here demands. b.mu is held.
func (b *Breaker) open(now time.Time, reason string) {
	old := b.period.Load()
	openFor := b.trip.OpenFor
	if old.openFor > 0 && (old.state == HalfOpen || now.Sub(old.since) < old.openFor) {
		openFor = b.trip.longer(old.openFor)
	}
	p := b.newPeriod(Open, now)
	p.openFor, p.until, p.reason = openFor, now.Add(openFor), reason
	p.cause = reason
	b.change(old, p)
}

// enter closes the breaker or makes it half-open. b.mu is held.
func (b *Breaker) enter(s State, now time.Time, reason string) *period {
	old := b.period.Load()
	p := b.newPeriod(s, now)
	p.openFor, p.reason = old.openFor, reason
	if s == HalfOpen {
		p.cause = old.cause
	}
	b.change(old, p)
	return p
}

// change goes over from one period to the next. b.mu is held.
func (b *Breaker) change(from, to *period) {
	b.period.Store(to)
	if b.changed == nil {
		return
	}
	t := Transition{From: from.state, To: to.state, Reason: to.reason, At: to.since}
	if to.state == Open {
		t.OpenFor = to.openFor
	}
	b.untold = append(b.untold, t)
}

// tell calls changed for all transitions that nobody was told of. One caller does it
// at a time, or they would not be told in their order. No lock is held.
func (b *Breaker) tell() {
	if b.changed == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.telling {
		return // whoever is at it tells of these too
	}
	for b.telling = true; len(b.untold) > 0; {
		t := b.untold[0]
		b.untold = b.untold[1:]
		b.mu.Unlock()
		b.changed(t)
		b.mu.Lock()
	}
	b.telling, b.untold = false, nil
}
