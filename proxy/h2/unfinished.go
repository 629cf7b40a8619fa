package h2

import "time"

// unfinished watches over what a peer has begun and not finished: a frame that is
// handled only once it has come whole, or a header block. Both take memory, and
// would for ever. It belongs to the reader, but for what its timer looks at, which
// is guarded by Conn.mu.
type unfinished struct {
	reserved int // bytes of the budget

	timer *time.Timer // runs, or is nil
	since time.Time   // zero: nothing is unfinished
}

// freeUnfinished is how many bytes each connection may have of that without asking
// the budget: no ordinary request is longer.
const freeUnfinished = 4 << 10

// note takes what is unfinished after a read: carry bytes of a frame, block bytes
// of a header block, which is open.
func (u *unfinished) note(c *Conn, now time.Time, carry, block int, open bool) error {
	if n := carry + block; n > freeUnfinished || u.reserved > 0 {
		if n <= freeUnfinished {
			n = 0
		}
		if n > u.reserved && !c.cfg.Budget.Take(n-u.reserved) {
			return connError(EnhanceYourCalm, "a header block that is not complete, and the sidecar keeps too much already")
		}
		if n < u.reserved {
			c.cfg.Budget.Release(u.reserved - n)
		}
		u.reserved = n
	}
	begun := carry > 0 || open
	if begun != u.since.IsZero() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !begun {
		u.since = time.Time{} // the timer runs on, and finds that out
		return nil
	}
	u.start(c, now)
	return nil
}

// start begins to count the time. c.mu is held.
func (u *unfinished) start(c *Conn, now time.Time) {
	u.since = now
	if u.timer == nil && c.cfg.StallTimeout > 0 {
		u.timer = time.AfterFunc(c.cfg.StallTimeout, func() { u.expired(c) })
	}
}

// end lets go of everything.
func (u *unfinished) end(c *Conn) {
	c.cfg.Budget.Release(u.reserved)
	u.reserved = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	u.since = time.Time{}
	if u.timer != nil {
		u.timer.Stop()
	}
}

// expired is called by the timer.
func (u *unfinished) expired(c *Conn) {
	c.mu.Lock()
	if c.dead || u.since.IsZero() {
		u.timer = nil
		c.mu.Unlock()
		return
	}
	if left := c.cfg.StallTimeout - time.Since(u.since); left > 0 {
		u.timer.Reset(left)
		c.mu.Unlock()
		return
	}
	u.timer = nil
	c.mu.Unlock()
	var b Batch
	c.abort(&b, connError(EnhanceYourCalm, "a frame or a header block that was begun and not finished within "+c.cfg.StallTimeout.String()))
	b.Done()
}
