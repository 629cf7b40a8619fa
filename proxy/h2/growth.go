package h2

import "time"

// growth enlarges the receive windows where a stream's is what holds its sender
// up. A PING marks a round trip; what was given back of one stream's window
// during it tells the rate, and a rate of about a window for each round trip says
// that the sender waits for the window. What was only received says nothing: a
// window that fills up because nobody takes the bytes must not grow.
//
// The window follows the rate times the shortest round trip seen, not the present
// one: where this side is the bottleneck, the answer queues behind the very DATA
// that the window let in, and a window that followed it would grow to its limit
// and have every other stream of the connection wait behind a full one.
//
// It is guarded by Conn.mu.
type growth struct {
	stream   *Stream // what is measured, in its life gen; nil: nothing
	gen      uint32
	bytes    int64 // given back
	sentAt   time.Time
	shortest time.Duration // round trip; 0: none yet
	best     float64       // bytes per second
	// wait is how many bytes of DATA come before the next round trip is
	// measured; pause is what it was the last time. Measuring in vain gets rarer.
	wait, pause int64
	inVain      int // measurements since the window last grew
}

// maxGrowthPause is the longest pause between two measurements, in windows.
const maxGrowthPause = 64

// growthPing is what such a PING carries.
var growthPing = [8]byte{'p', 'i', 'l', 'l', 'i', 'o', 'n', 'w'}

// received notes n bytes of DATA on s, and begins to measure a round trip where s
// is a bulk stream: small exchanges cause no pings. c.mu is held.
func (g *growth) received(b *Batch, c *Conn, s *Stream, n int) {
	if g.stream != nil || s.received < int64(c.streamWindow/2) {
		return
	}
	if g.wait -= int64(n); g.wait > 0 || c.streamWindow >= int32(c.cfg.MaxStreamWindow) || c.cfg.Budget.tight() {
		return
	}
	g.stream, g.gen, g.bytes, g.sentAt = s, s.gen, 0, b.Now()
	b.touch(c)
	o := c.output()
	o.b = appendPing(o.b, false, growthPing)
}

// gaveBack notes n bytes given back to the window of s. c.mu is held.
func (g *growth) gaveBack(s *Stream, n int32) {
	if g.stream == s && g.gen == s.gen {
		g.bytes += int64(n)
	}
}

// answered takes the end of the round trip. c.mu is held.
func (g *growth) answered(b *Batch, c *Conn) {
	if g.stream == nil {
		return
	}
	g.stream = nil
	rtt := max(b.Now().Sub(g.sentAt), time.Microsecond)
	if g.shortest == 0 || rtt < g.shortest {
		g.shortest = rtt
	}
	rate := float64(g.bytes) / rtt.Seconds()
	product := int64(rate * g.shortest.Seconds())
	window := int64(c.streamWindow)
	if product < window*2/3 || rate < g.best || c.cfg.Budget.tight() {
		// Only the second of two counts. The first may have begun in the middle
		// of a burst, whose sender answers a PING before it goes on, or before
		// the sender knew of its larger window; the second begins with a burst.
		if g.inVain++; g.inVain%2 == 0 {
			g.pause = min(max(2*g.pause, window), maxGrowthPause*window)
			g.wait = g.pause
		}
		return
	}
	g.wait, g.pause, g.inVain = 0, 0, 0
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
	c.unacked++
	o.b = appendSetting(o.b, settingInitialWindowSize, uint32(window))
	c.streamWindow = window
	for s := range c.streams.all() {
		s.recvWindow += delta
	}
	c.resets.grow(delta)
	if more := 2*window - c.recvTarget; more > 0 && c.recvTarget < 16<<20 {
		c.recvTarget += more
		c.recvWindow += more
		o.appendWindowUpdate(0, uint32(more))
	}
}
