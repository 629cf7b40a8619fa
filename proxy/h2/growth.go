package h2

import "time"

// growth enlarges the receive windows of a peer that fills them faster than the
// round trip lets them be given back, as gRPC implementations do: a PING marks a
// round trip, and what arrives during it tells the rate. It is guarded by
// Conn.mu.
//
// The window follows the rate times the shortest round trip seen, not the present
// one: where this side is the bottleneck, the answer queues behind the very DATA
// that the window let in, and a window that followed it would grow to its limit
// and have every other stream of the connection wait behind a full one.
type growth struct {
	pending  bool
	bytes    int64
	sentAt   time.Time
	shortest time.Duration // round trip; 0: none yet
	best     float64       // bytes per second
}

// growthPing is what such a PING carries.
var growthPing = [8]byte{'p', 'i', 'l', 'l', 'i', 'o', 'n', 'w'}

// received notes DATA on s, whose window may now be low enough to ask whether it
// is too small: so only bulk streams cause pings. c.mu is held.
func (g *growth) received(b *Batch, c *Conn, s *Stream, n int) {
	if g.pending {
		g.bytes += int64(n)
		return
	}
	if s.recvWindow > c.streamWindow/2 || c.streamWindow >= int32(c.cfg.MaxStreamWindow) || c.cfg.Budget.tight() {
		return
	}
	g.pending, g.bytes, g.sentAt = true, int64(n), b.Now()
	b.touch(c)
	o := c.output()
	o.b = appendPing(o.b, false, growthPing)
}

// answered takes the end of the round trip. c.mu is held.
func (g *growth) answered(b *Batch, c *Conn) {
	if !g.pending {
		return
	}
	g.pending = false
	rtt := max(b.Now().Sub(g.sentAt), time.Microsecond)
	if g.shortest == 0 || rtt < g.shortest {
		g.shortest = rtt
	}
	rate := float64(g.bytes) / rtt.Seconds()
	product := int64(rate * g.shortest.Seconds())
	window := int64(c.streamWindow)
	if product < window*2/3 || rate < g.best || c.cfg.Budget.tight() {
		return
	}
	g.best = rate
	c.growWindows(b, int32(min(2*max(product, window), int64(c.cfg.MaxStreamWindow))))
}

// growWindows raises the window of all streams, and the connection's with it.
// c.mu is held.
func (c *Conn) growWindows(b *Batch, window int32) {
	delta := window - c.streamWindow
	if delta <= 0 {
		return
	}
	b.touch(c)
	o := c.output()
	o.b = appendFrameHeader(o.b, 6, frameSettings, 0, 0)
	o.b = appendSetting(o.b, settingInitialWindowSize, uint32(window))
	c.streamWindow = window
	for _, s := range c.streams {
		s.recvWindow += delta
	}
	if more := 2*window - c.recvTarget; more > 0 && c.recvTarget < 16<<20 {
		c.recvTarget += more
		c.recvWindow += more
		o.appendWindowUpdate(0, uint32(more))
	}
}
