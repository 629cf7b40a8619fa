package h2

import "time"

// keepalive pings a peer that is silent while streams are open, and ends the
// connection where it stays so. An idle connection is never pinged: grpc-go
// servers tolerate that every two hours only. It is guarded by Conn.mu.
type keepalive struct {
	timer    *time.Timer
	lastRead time.Time
	pingedAt time.Time // zero: no ping is unanswered
}

// keepalivePing is what a keepalive PING carries.
var keepalivePing = [8]byte{'p', 'i', 'l', 'l', 'i', 'o', 'n', 'k'}

func (k *keepalive) start(c *Conn) {
	k.lastRead = time.Now()
	if c.cfg.KeepaliveInterval > 0 {
		k.timer = time.AfterFunc(c.cfg.KeepaliveInterval, c.checkAlive)
	}
}

func (k *keepalive) stop() {
	if k.timer != nil {
		k.timer.Stop()
	}
}

// heard notes that the peer sent something. c.mu is held.
func (k *keepalive) heard(now time.Time) {
	if k.timer != nil {
		k.lastRead = now
		k.pingedAt = time.Time{}
	}
}

func (c *Conn) checkAlive() {
	var b Batch
	defer b.Done()
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	k, now := &c.keepalive, b.Now()
	switch {
	case !k.pingedAt.IsZero():
		c.mu.Unlock()
		c.end(&b, connError(NoError, "no answer to a keepalive PING within "+c.cfg.KeepaliveTimeout.String()))
		_ = c.t.Close()
		return
	case c.active > 0 && now.Sub(k.lastRead) >= c.cfg.KeepaliveInterval:
		k.pingedAt = now
		b.touch(c)
		o := c.output()
		o.b = appendPing(o.b, false, keepalivePing)
		k.timer.Reset(c.cfg.KeepaliveTimeout)
	default:
		wait := c.cfg.KeepaliveInterval - now.Sub(k.lastRead)
		if wait <= 0 { // idle: look again later
			wait = c.cfg.KeepaliveInterval
		}
		k.timer.Reset(wait)
	}
	c.mu.Unlock()
}

// onPing answers a PING, or takes the answer to one of ours (RFC 9113 section
// 6.7).
func (c *Conn) onPing(b *Batch, h frameHeader, p []byte) error {
	if h.id != 0 {
		return connError(ProtocolError, "PING on a stream")
	}
	if h.length != 8 {
		return connError(FrameSizeError, "PING of a length other than 8")
	}
	data := [8]byte(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.has(flagAck) {
		switch {
		case data == shutdownPing && c.shutdown == shutdownAnnounced:
			c.finalGoAway(b)
		case data == growthPing && c.grow.stream != nil:
			c.grow.answered(b, c)
		default: // or a keepalive's, which are rare
			return c.nuisance(1)
		}
		return nil
	}
	if err := c.nuisance(1); err != nil {
		return err
	}
	b.touch(c)
	o := c.owe()
	o.b = appendPing(o.b, true, data)
	return nil
}
