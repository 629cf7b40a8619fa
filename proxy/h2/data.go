package h2

// beginData handles the beginning of a DATA frame and as much of its payload as
// p holds (RFC 9113 section 6.1). It returns how much of p it used, 0 where it
// needs more to begin.
func (r *reader) beginData(h frameHeader, p []byte) (used int, err error) {
	c, b := r.c, &r.batch
	used = frameHeaderLen
	payload, pad := h.length, 0
	if h.has(flagPadded) && h.length > 0 {
		if len(p) < frameHeaderLen+1 {
			return 0, nil
		}
		pad = int(p[frameHeaderLen])
		used++
		payload -= 1 + pad
	}
	switch {
	case h.id == 0:
		return used, connError(ProtocolError, "DATA on stream 0")
	case payload < 0 || h.has(flagPadded) && h.length == 0:
		return used, connError(ProtocolError, "DATA whose padding is as long as its payload")
	}
	chunk := p[used:]
	chunk = chunk[:min(len(chunk), payload)]
	whole := len(p) >= frameHeaderLen+h.length

	c.mu.Lock()
	if err := c.receive(b, h.length); err != nil {
		c.mu.Unlock()
		return used, err
	}
	s := c.streams[h.id]
	// Whatever happens to the stream, the rest of the frame has to be passed over.
	r.data = dataFrame{id: h.id, left: payload, pad: pad, end: h.has(flagEndStream)}
	if s == nil {
		err := c.onClosedStreamData(h.id)
		c.mu.Unlock()
		return used, err
	}
	if err := c.acceptData(s, h, payload); err != nil {
		c.mu.Unlock()
		return used, err
	}
	gen := s.gen
	r.data.stream, r.data.gen = s, gen
	if payload == 0 && !r.data.end {
		err := c.nuisance(2)
		c.mu.Unlock()
		return used, err
	}
	c.usefulWork(1)
	c.grow.received(b, c, s, h.length)
	if !whole {
		c.mu.Unlock()
		return used, nil // moreData delivers what is there
	}
	r.data = dataFrame{}
	if h.has(flagEndStream) {
		if err := c.endRemote(b, s); err != nil {
			c.mu.Unlock()
			return frameHeaderLen + h.length, err
		}
	}
	c.mu.Unlock()
	s.owner.OnData(b, s, gen, chunk, h.has(flagEndStream))
	if over := h.length - payload; over > 0 {
		c.consumePadding(b, h.id, s, gen, over)
	}
	return frameHeaderLen + h.length, nil
}

// moreData delivers what has come of a DATA frame that arrives in parts.
func (r *reader) moreData(p []byte) []byte {
	c, b, d := r.c, &r.batch, &r.data
	chunk := p[:min(len(p), d.left)]
	d.left -= len(chunk)
	p = p[len(chunk):]
	skip := 0
	if d.left == 0 {
		skip = min(len(p), d.pad)
		d.pad -= skip
		p = p[skip:]
	}
	s, gen := d.stream, d.gen
	if s == nil {
		return p
	}
	end := d.end && d.left == 0
	if end {
		d.end = false
		c.mu.Lock()
		var err error
		if c.streams[d.id] == s && s.gen == gen { // else s may be another connection's by now
			err = c.endRemote(b, s)
		}
		c.mu.Unlock()
		if err != nil {
			d.stream = nil
			r.resetFor(&err)
			return p
		}
	}
	if len(chunk) > 0 || end {
		s.owner.OnData(b, s, gen, chunk, end)
	}
	if skip > 0 {
		c.consumePadding(b, d.id, s, gen, skip)
	}
	return p
}

// receive counts a frame against the connection's window, and gives the window
// back in steps: what is received is no longer the connection's concern. c.mu is
// held.
func (c *Conn) receive(b *Batch, n int) error {
	if n > int(c.recvWindow) {
		return connError(FlowControlError, "DATA beyond the connection's window")
	}
	c.recvWindow -= int32(n)
	c.unreturned += int32(n)
	if c.unreturned >= c.recvTarget/4 {
		b.touch(c)
		c.output().appendWindowUpdate(0, uint32(c.unreturned))
		c.recvWindow += c.unreturned
		c.unreturned = 0
	}
	return nil
}

// acceptData checks a DATA frame against the stream's state and window. c.mu is
// held.
func (c *Conn) acceptData(s *Stream, h frameHeader, payload int) error {
	if s.gotEnd {
		return &streamError{h.id, StreamClosed, "DATA after END_STREAM"}
	}
	if !s.gotHead {
		return &streamError{h.id, ProtocolError, "DATA before a header section"}
	}
	if h.length > int(s.recvWindow) {
		return &streamError{h.id, FlowControlError, "DATA beyond the stream's window"}
	}
	s.recvWindow -= int32(h.length)
	s.received += int64(payload)
	if s.contentLength >= 0 && s.received > s.contentLength {
		return &streamError{h.id, ProtocolError, "more DATA than content-length says"}
	}
	return nil
}

// onClosedStreamData judges DATA on a stream that is not open: what was on its
// way when we reset it is thrown away, the rest is an error (RFC 9113 section
// 5.1). c.mu is held.
func (c *Conn) onClosedStreamData(id uint32) error {
	if err := c.checkNotIdle(id); err != nil {
		return err
	}
	if c.resets.has(id) || id > c.goAwayID {
		return nil
	}
	return &streamError{id, StreamClosed, "DATA on a closed stream"}
}

// endRemote notes the peer's END_STREAM. c.mu is held.
func (c *Conn) endRemote(b *Batch, s *Stream) error {
	if s.contentLength >= 0 && s.received != s.contentLength {
		return &streamError{s.id, ProtocolError, "less DATA than content-length says"}
	}
	s.gotEnd = true
	c.usefulWork(1)
	if s.sentEnd {
		c.closeStream(b, s)
	}
	return nil
}

// consumePadding gives padding back at once: nobody else will. It bypasses the
// owner's count, which it may not touch.
func (c *Conn) consumePadding(b *Batch, id uint32, s *Stream, gen uint32, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[id] == s && s.gen == gen && !s.gotEnd { // else s may be another connection's by now
		b.touch(c)
		c.output().appendWindowUpdate(id, uint32(n))
		s.recvWindow += int32(n)
	}
}
