package h2

import "time"

// unfinished watches over what a peer has begun and not finished: a frame that is
// handled only once it has come whole, or a header block. Both take memory, and
// would for ever. It belongs to the reader, but for what its timer looks at, which
// is guarded by Conn.mu.
type unfinished struct {
	reserved int    // bytes of the budget
	open     uint32 // the stream of the header block that was open after the last read

	timer *time.Timer // runs, or is nil
	since time.Time   // zero: nothing is unfinished
}

// freeUnfinished is how many bytes each connection may have of that without asking
// the budget: no ordinary request is longer.
const freeUnfinished = 4 << 10

// note takes what is unfinished after a read: carry bytes of a frame, block bytes
// of a header block, which is open where its stream's id is not 0. moved says that
// the read has brought the end of the frame that was unfinished before: a peer that
// keeps the reader busy may have each read end within another one.
func (u *unfinished) note(c *Conn, now time.Time, carry, block int, open uint32, moved bool) error {
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
	another := moved && (open == 0 || open != u.open)
	u.open = open
	switch begun := carry > 0 || open != 0; {
	case begun && (another || u.since.IsZero()):
		c.mu.Lock()
		defer c.mu.Unlock()
		u.start(c, now)
	case !begun && !u.since.IsZero():
		c.mu.Lock()
		defer c.mu.Unlock()
		u.since = time.Time{} // the timer runs on, and finds that out
	}
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
