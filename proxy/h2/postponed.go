package h2

import "time"

// postponed are resets that a client holds back. Who opens streams only to reset
// them is ended by servers that protect themselves (rapid reset), and with the
// connection the RPCs of all others that share it. A proxy must not be made to do
// so by one of its own callers. So beyond a rate that no server minds, streams that
// were not answered are reset only when they are old enough; until then they count
// as open, which bounds their number. It is guarded by Conn.mu.
type postponed struct {
	resets []lateReset // in the order of their times
	timer  *time.Timer // runs as long as there are some
	spare  allowance
}

type lateReset struct {
	id   uint32
	code ErrCode
	at   int64 // Unix time in nanoseconds
}

// spareDiv is which part of what a server like ours would allow is used at once.
const spareDiv = 2

// safeAge is how many times Config.PrematureAge a stream has to be old to be reset
// at once: the peer may have read of its beginning later than we wrote it.
const safeAge = 2

// resetPatience is how long an unanswered stream is left open: longer than servers
// like ours count it as premature, also where they were late to read of its
// beginning.
func (c *Conn) resetPatience() time.Duration { return c.cfg.PrematureAge * 5 }

// tooEarly says whether the reset of s has to wait. c.mu is held.
func (c *Conn) tooEarly(b *Batch, s *Stream) bool {
	if c.role != Client || s.gotHead || c.draining {
		return false
	}
	now := b.Now().UnixNano()
	return now-s.openedAt < int64(c.cfg.PrematureAge)*safeAge &&
		!c.postponed.spare.take(now, c.cfg.PrematureResets/spareDiv, c.cfg.MaxConcurrentStreams/spareDiv)
}

// postpone keeps a reset for later. c.mu is held.
func (c *Conn) postpone(b *Batch, id uint32, code ErrCode) {
	p, wait := &c.postponed, c.resetPatience()
	p.resets = append(p.resets, lateReset{id, code, b.Now().Add(wait).UnixNano()})
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, c.sendPostponed)
	}
}

// sendPostponed sends the resets whose time has come.
func (c *Conn) sendPostponed() {
	var b Batch
	defer b.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.postponed
	if c.dead {
		p.drop()
		return
	}
	now, n := b.Now().UnixNano(), 0
	for ; n < len(p.resets) && p.resets[n].at <= now; n++ {
		b.touch(c)
		o := c.output()
		o.b = appendRSTStream(o.b, p.resets[n].id, p.resets[n].code)
	}
	p.resets = p.resets[:copy(p.resets, p.resets[n:])]
	if len(p.resets) == 0 {
		p.drop()
	} else {
		p.timer.Reset(time.Duration(p.resets[0].at - now))
	}
	c.openMore(&b)
	c.offerIfRoom(&b)
}

// drop forgets all of them.
func (p *postponed) drop() {
	p.resets = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// allowance is a number of things that may be done at once, and that grows again
// with time. Its zero value has all it may have.
type allowance struct {
	used uint32
	at   int64 // Unix time in nanoseconds, of the last growth
}

// take uses one, where there is one: of most, with perSecond more in each second.
func (a *allowance) take(now int64, most, perSecond uint32) bool {
	a.grow(now, perSecond)
	if a.used >= most {
		return false
	}
	a.used++
	return true
}

// grow gives back what has grown again.
func (a *allowance) grow(now int64, perSecond uint32) {
	step := max(1, int64(time.Second)/int64(max(perSecond, 1)))
	if back := (now - a.at) / step; back > 0 {
		a.used -= uint32(min(back, int64(a.used)))
		a.at += back * step // what is left of a step counts for the next
	}
}
