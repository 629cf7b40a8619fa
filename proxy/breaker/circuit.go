package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

// Circuit is what the RPCs to one method of a destination pass: a breaker, and a limit
// on how many are under way, with a queue for it. It is safe for concurrent use. A nil
// *Circuit lets everything pass.
type Circuit struct {
	key        Key
	breaker    *Breaker // nil: none
	max        uint32   // RPCs under way; 0: any number
	maxPending uint32
	full, open string // what an RPC is told that is refused; open goes before the cause

	// use is how many are under way, and above that how many wait. While somebody
	// waits it changes under mu alone, and all places are taken.
	use     atomic.Uint64
	mu      sync.Mutex
	waiting queue

	refused, overflowed atomic.Uint64
}

const (
	underWay   = 1
	pending    = 1 << 32
	inUse      = pending - 1
	waitShift  = 32
	noneToWake = pending // use below that: nobody waits
)

// Enter asks for a place for an RPC. Where the verdict is Pending, w is told with life
// when the wait is over. Whatever the verdict, p may Leave, and has to where it is
// Admitted or Pending.
func (c *Circuit) Enter(now time.Time, p *Place, w Waiter, life uint32) Verdict {
	p.waited, p.stage = false, stageNone
	if c == nil {
		return Admitted
	}
	var t Ticket
	if c.breaker != nil {
		var ok bool
		if t, ok = c.breaker.Allow(now); !ok {
			c.refused.Add(1)
			return Refused
		}
	}
	p.circuit, p.ticket, p.stage = c, t, stageHeld
	if c.max == 0 || c.takePlace() {
		return Admitted
	}
	if v := c.line(now, p, w, life); v != Full {
		return v
	}
	p.circuit, p.ticket, p.stage = nil, Ticket{}, stageNone
	c.giveBack(now, t)
	c.overflowed.Add(1)
	return Full
}

// takePlace takes a place if there is one and nobody waits for it.
func (c *Circuit) takePlace() bool {
	for {
		use := c.use.Load()
		if use >= uint64(c.max) { // or somebody waits
			return false
		}
		if c.use.CompareAndSwap(use, use+underWay) {
			return true
		}
	}
}

// line puts p at the end of the queue, unless there is a place by now.
func (c *Circuit) line(now time.Time, p *Place, w Waiter, life uint32) Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.takePlace() {
			return Admitted
		}
		use := c.use.Load()
		if use>>waitShift >= uint64(c.maxPending) {
			if use&inUse < uint64(c.max) {
				continue // one has just left
			}
			return Full
		}
		if use&inUse < uint64(c.max) || !c.use.CompareAndSwap(use, use+pending) {
			continue
		}
		c.giveBack(now, p.ticket) // it does not probe while it waits
		p.waited, p.stage, p.ticket = true, stageQueued, Ticket{}
		p.waiter, p.life = w, life
		c.waiting.push(p)
		return Pending
	}
}

// giveBack returns the ticket of an RPC that did not begin. It makes no transition.
func (c *Circuit) giveBack(now time.Time, t Ticket) {
	if c.breaker != nil {
		c.breaker.done(now, t, Ignored, 0)
	}
}

// leave takes back the place of an RPC that has ended.
func (c *Circuit) leave(now time.Time, t Ticket, o Outcome, firstByte time.Duration) (w Woken) {
	told := c.breaker != nil && c.breaker.done(now, t, o, firstByte)
	if c.max > 0 && !c.freePlace() {
		c.mu.Lock()
		w = c.handOver(now)
		c.mu.Unlock()
		told = c.breaker != nil
	}
	if told {
		c.breaker.tell()
	}
	return w
}

// freePlace gives a place back if nobody waits for it.
func (c *Circuit) freePlace() bool {
	for {
		use := c.use.Load()
		if use >= noneToWake {
			return false
		}
		if c.use.CompareAndSwap(use, use-underWay) {
			return true
		}
	}
}

// handOver gives a place to the first that waits and that the breaker lets begin; the
// others' wait is over as well. c.mu is held.
func (c *Circuit) handOver(now time.Time) (w Woken) {
	for {
		if c.freePlace() {
			return w
		}
		p := c.waiting.head
		c.waiting.remove(p)
		c.use.Add(^uint64(pending - 1))
		if c.breaker != nil {
			t, ok := c.breaker.allow(now)
			if !ok {
				p.stage = stageNone
				c.refused.Add(1)
				w = w.with(p, Refused)
				continue
			}
			p.ticket = t
		}
		p.stage = stageHeld
		return w.with(p, Admitted)
	}
}

// leaveQueue takes back what a place has that was in the queue.
func (c *Circuit) leaveQueue(now time.Time, p *Place, o Outcome, firstByte time.Duration) Woken {
	c.mu.Lock()
	was, t := p.stage, p.ticket
	if was == stageQueued {
		c.waiting.remove(p)
		c.use.Add(^uint64(pending - 1))
	}
	p.stage, p.ticket, p.waiter = stageNone, Ticket{}, nil
	c.mu.Unlock()
	if was != stageHeld {
		return Woken{}
	}
	return c.leave(now, t, o, firstByte)
}

// Refusal is what an RPC is told that is refused by a verdict: it names the policy.
func (c *Circuit) Refusal(v Verdict) string {
	if v == Full {
		return c.full
	}
	cause := c.breaker.Cause()
	if cause == "" {
		cause = "it has just closed again"
	}
	return c.open + cause
}
