package h2

import "time"

// Credit is what a caller may yet throw away, as it passes from one of his
// connections to the next. Each connection may have Config.PrematureResets of its
// streams ended early at once; without a credit, whoever is ended for more has as
// many again by connecting anew. Its zero value is an untouched one.
type Credit struct{ spare allowance }

const (
	// longestWait is the most that a caller waits whose credit is overdrawn: others
	// may share his address.
	longestWait = time.Second
	// calmFeeDiv says what part of a second's worth it costs to be ended for
	// ENHANCE_YOUR_CALM, whatever for.
	calmFeeDiv = 10
	// abandonedFree is how many streams a connection's end may end early at no charge:
	// for so few the connection costs more than they do.
	abandonedFree = 2
)

// Wait is how long the next connection has to wait until the credit is no longer
// overdrawn, a second at most. 0: it may begin.
func (cr *Credit) Wait(cfg *Config, now time.Time) time.Duration {
	perSecond := cfg.MaxConcurrentStreams
	cr.spare.grow(now.UnixNano(), perSecond)
	over := int64(cr.spare.used) - int64(cfg.PrematureResets)
	return max(0, min(time.Duration(over)*time.Second/time.Duration(perSecond), longestWait))
}

// Restored says that nothing of the credit is used any more.
func (cr *Credit) Restored(cfg *Config, now time.Time) bool {
	cr.spare.grow(now.UnixNano(), cfg.MaxConcurrentStreams)
	return cr.spare.used == 0
}

// Charge uses n more of the credit, overdrawing it where need be.
func (cr *Credit) Charge(cfg *Config, now time.Time, n int) {
	cr.spare.grow(now.UnixNano(), cfg.MaxConcurrentStreams)
	most := uint64(cfg.PrematureResets) + uint64(cfg.MaxConcurrentStreams)*uint64(longestWait/time.Second)
	cr.spare.used = uint32(min(uint64(cr.spare.used)+uint64(n), most))
}

// Grant has a server's connection begin with a caller's credit instead of an
// untouched one. It must be called before Serve.
func (c *Conn) Grant(cr Credit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm.spare = cr.spare
	c.calm.granted = cr.spare
}

// Spent is what a connection that has ended has used of its caller's credit: the
// streams that ended early, most of those that its end has ended so, and a fee where
// it was ended for ENHANCE_YOUR_CALM.
func (c *Conn) Spent(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.calm
	m.spare.grow(now.UnixNano(), c.cfg.MaxConcurrentStreams)
	m.granted.grow(now.UnixNano(), c.cfg.MaxConcurrentStreams)
	spent := max(0, int(m.abandoned)-abandonedFree) + max(0, int(m.spare.used)-int(m.granted.used))
	if ce, is := c.err.(*ConnError); is && !ce.Remote && ce.Code == EnhanceYourCalm {
		spent += int(c.cfg.MaxConcurrentStreams / calmFeeDiv)
	}
	return spent
}

// abandon counts a stream that the end of its connection ends. c.mu is held.
func (c *Conn) abandon(s *Stream, now int64) {
	if ce, is := c.err.(*ConnError); is && !ce.Remote && ce.Code == NoError {
		return // we ended it
	}
	if c.early(s, now) {
		c.calm.abandoned++
	}
}
