package h2

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

// shutdownStep is how far a server's graceful shutdown has come (RFC 9113
// section 6.8): the first GOAWAY, with the highest id there is, says that no new
// streams should be opened; the second, a round trip later, says which were the
// last ones taken, so that none is lost that was on its way.
type shutdownStep uint8

const (
	shutdownNone shutdownStep = iota
	shutdownAnnounced
	shutdownFinal
)

// shutdownPing is what the PING behind the first GOAWAY carries.
var shutdownPing = [8]byte{'g', 'o', 'i', 'n', 'g', 'a', 'w', 'y'}

// shutdownPatience is how long the second GOAWAY waits for the answer to that
// PING.
const shutdownPatience = time.Second

// ErrShutdown says that a connection ended in peace: one of both said so before, and all
// that was under way on it is done.
var ErrShutdown = errors.New("the connection was shut down and its last stream has ended")

// Shutdown ends the connection gracefully: no new streams, those open go on, and
// with the last one's end the connection is closed. It may be called again.
func (c *Conn) Shutdown(b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.shutdown != shutdownNone {
		return
	}
	b.touch(c)
	o := c.output()
	if c.role == Client {
		c.shutdown = shutdownFinal
		o.b = appendGoAway(o.b, 0, NoError, "")
		c.drain(b)
		return
	}
	c.shutdown = shutdownAnnounced
	o.b = appendGoAway(o.b, maxStreamID, NoError, "graceful shutdown")
	o.b = appendPing(o.b, false, shutdownPing)
	c.drainStop = time.AfterFunc(shutdownPatience, func() {
		var b Batch
		c.mu.Lock()
		c.finalGoAway(&b)
		c.mu.Unlock()
		b.Done()
	})
}

// finalGoAway is the second step of a server's shutdown. c.mu is held.
func (c *Conn) finalGoAway(b *Batch) {
	if c.dead || c.shutdown != shutdownAnnounced {
		return
	}
	c.shutdown = shutdownFinal
	c.goAwayID = c.lastID
	b.touch(c)
	o := c.output()
	o.b = appendGoAway(o.b, c.goAwayID, NoError, "graceful shutdown")
	c.drain(b)
}

// drain says that no new streams are taken, and finishes a connection that has
// none. c.mu is held.
func (c *Conn) drain(b *Batch) {
	if !c.draining {
		c.draining = true
		b.events = append(b.events, event{kind: eventDraining, conn: c})
	}
	c.finishIfDrained(b)
}

// finishIfDrained ends a connection that takes no new streams and has none left.
// c.mu is held.
func (c *Conn) finishIfDrained(b *Batch) {
	if c.draining && c.active == 0 && !c.ending {
		c.ending = true
		b.events = append(b.events, event{kind: eventFinished, conn: c})
	}
}

// finished ends a drained connection; what is in its output is still written.
func (c *Conn) finished(b *Batch) {
	c.end(b, c.reason(ErrShutdown))
	c.flush(b) // and says that it was the last
}

// reason returns why the connection ends, where err says how.
func (c *Conn) reason(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.goAwayErr != nil:
		return c.goAwayErr
	case c.writeErr != nil:
		return c.writeErr
	}
	return err
}

// onGoAway takes the peer's GOAWAY: streams beyond its last id were not
// processed, the others go on (RFC 9113 section 6.8), even if it speaks of an
// error: the peer may answer them until it closes the connection.
func (c *Conn) onGoAway(b *Batch, h frameHeader, p []byte) error {
	if h.id != 0 {
		return connError(ProtocolError, "GOAWAY on a stream")
	}
	if h.length < 8 {
		return connError(FrameSizeError, "GOAWAY shorter than 8 octets")
	}
	last := binary.BigEndian.Uint32(p) & maxStreamID
	code := ErrCode(binary.BigEndian.Uint32(p[4:]))
	reason := strings.ToValidUTF8(string(p[8:min(len(p), 8+maxGoAwayReason)]), "?")

	type refused struct {
		s   *Stream
		gen uint32
	}
	var beyond []refused
	c.mu.Lock()
	if c.goneAway {
		if err := c.nuisance(1); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.goneAway = true
	if c.role == Client {
		c.goAwayID = min(c.goAwayID, last)
		for s := range c.streams.all() {
			if s.id > c.goAwayID {
				beyond = append(beyond, refused{s, s.gen})
			}
		}
		c.unsent(func(s *Stream) { beyond = append(beyond, refused{s, s.gen}) })
		for _, e := range beyond {
			c.forget(b, e.s)
		}
	}
	if code != NoError && c.goAwayErr == nil {
		c.goAwayErr = &ConnError{Code: code, Reason: reason, Remote: true}
	}
	c.drain(b)
	c.mu.Unlock()
	for _, e := range beyond {
		e.s.owner.OnReset(b, e.s, e.gen, Reset{Code: RefusedStream, Cause: CauseGoAway, Unprocessed: true})
		e.s.owner.OnClosed(b, e.s, e.gen)
	}
	return nil
}
