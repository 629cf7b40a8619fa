package canned

import "time"

// flushLocked writes what the reader has appended, unless the pump is writing
// and will take it along. mu is held on entry and on return, not while
// writing.
func (c *conn) flushLocked() error {
	if c.writing {
		return nil
	}
	for len(c.out) > 0 {
		if err := c.writeLocked(); err != nil {
			return err
		}
	}
	if len(c.pending) > 0 {
		c.wakePump()
	}
	return nil
}

// writeLocked writes out, giving mu back meanwhile.
func (c *conn) writeLocked() error {
	b := c.out
	c.out, c.writing = c.spare[:0], true
	c.mu.Unlock()
	_, err := c.nc.Write(b)
	c.mu.Lock()
	c.spare, c.writing = b, false
	return err
}

func (c *conn) wakePump() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// runPump sends the replies that wait, a quantum at a time, until the
// connection is closed.
func (c *conn) runPump() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, err := c.pumpOnce(time.Now())
		if err != nil {
			_ = c.nc.Close() // the reader sees it and ends the connection
			return
		}
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-c.closed:
			return
		}
	}
}

// pumpOnce writes at most a quantum. It returns how long there is nothing to
// do unless it is woken; 0 is to be called again at once.
func (c *conn) pumpOnce(now time.Time) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return time.Hour, nil // the reader wakes the pump when it is done
	}
	wait := c.fill(now)
	if len(c.out) == 0 {
		return wait, nil
	}
	return 0, c.writeLocked()
}

// fill appends up to a quantum of DATA, a frame of each pending stream in
// turn. Where it appends nothing, it returns how long until a rate allows
// more.
func (c *conn) fill(now time.Time) time.Duration {
	wait := time.Hour
	enough := len(c.out) + quantum
	for idle := 0; idle < len(c.pending) && c.window > 0 && len(c.out) < enough; {
		s := c.pending[0]
		c.pending = append(c.pending[1:], s)
		window := min(c.window, s.window)
		if window <= 0 {
			idle++
			continue
		}
		if d := s.reply.due().Sub(now); d > 0 {
			wait = min(wait, d)
			idle++
			continue
		}
		idle = 0
		var n int64
		c.out, n = s.reply.appendData(c.out, s.id, window)
		c.window -= n
		s.window -= n
		if s.reply.done() {
			c.out = appendFrame(c.out, frameHeaders, flagEndHeaders|flagEndStream, s.id, trailers)
			c.remove(s)
		}
	}
	return wait
}
