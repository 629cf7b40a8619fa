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
	used += len(chunk)
	// Whatever becomes of the stream, the rest of the frame has to be passed over.
	r.data = dataFrame{id: h.id, left: payload - len(chunk), pad: pad}
	ended := h.has(flagEndStream)

	c.mu.Lock()
	if err := c.receive(b, h.length); err != nil {
		c.mu.Unlock()
		return used, err
	}
	s := c.streams.get(h.id)
	if s == nil {
		err := c.onClosedStreamData(h, payload)
		c.mu.Unlock()
		return used, err
	}
	err = c.acceptData(b, s, h, payload)
	end := ended && r.data.left == 0
	if end && err == nil {
		err = c.endRemote(b, s)
	}
	gen := s.gen
	c.mu.Unlock()
	if err != nil {
		return used, err
	}
	if r.data.left > 0 {
		r.data.stream, r.data.gen, r.data.end = s, gen, ended
	}
	if len(chunk) > 0 || end {
		s.owner.OnData(b, s, gen, chunk, end)
	}
	return used, nil
}

// moreData handles what has come of a DATA frame that arrives in parts.
func (r *reader) moreData(p []byte) (rest []byte, err error) {
	d := &r.data
	chunk := p[:min(len(p), d.left)]
	d.left -= len(chunk)
	p = p[len(chunk):]
	if len(chunk) > 0 && d.stream != nil {
		err = r.deliverMore(chunk, d.end && d.left == 0)
	}
	if d.left == 0 {
		skip := min(len(p), d.pad)
		d.pad -= skip
		p = p[skip:]
	}
	return p, err
}

// deliverMore hands on a later part of a DATA frame.
func (r *reader) deliverMore(chunk []byte, end bool) error {
	c, b, d := r.c, &r.batch, &r.data
	s, gen := d.stream, d.gen
	c.mu.Lock()
	if c.streams.get(d.id) != s || s.gen != gen { // reset in the meantime, and maybe another connection's
		d.stream = nil
		c.mu.Unlock()
		return nil
	}
	var err error
	if end {
		err = c.endRemote(b, s)
	}
	c.mu.Unlock()
	if err == nil {
		s.owner.OnData(b, s, gen, chunk, end)
	}
	return err
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
		c.owe().appendWindowUpdate(0, uint32(c.unreturned))
		c.recvWindow += c.unreturned
		c.unreturned = 0
	}
	return nil
}

// acceptData checks a DATA frame against the stream's state and window. c.mu is
// held.
func (c *Conn) acceptData(b *Batch, s *Stream, h frameHeader, payload int) error {
	switch {
	case s.gotEnd:
		return &streamError{h.id, StreamClosed, "DATA after END_STREAM"}
	case !s.gotHead:
		return &streamError{h.id, ProtocolError, "DATA before a header section"}
	case h.length > int(s.recvWindow):
		return &streamError{h.id, FlowControlError, "DATA beyond the stream's window"}
	}
	s.recvWindow -= int32(h.length)
	s.received += int64(payload)
	if s.contentLength >= 0 && s.received > s.contentLength {
		return &streamError{h.id, ProtocolError, "more DATA than content-length says"}
	}
	if h.has(flagEndStream) {
		return nil
	}
	if payload == 0 {
		return c.nuisance(2)
	}
	c.usefulWork(1)
	c.returnPadding(b, s, h.length-payload)
	c.grow.received(b, c, s, h.length)
	return nil
}

// returnPadding gives padding back to the stream's window: nobody else will. It
// does so in steps, apart from the owner's, whose count it may not touch. c.mu is
// held.
func (c *Conn) returnPadding(b *Batch, s *Stream, n int) {
	s.padding += int32(n)
	if s.padding >= c.streamWindow/4 {
		b.touch(c)
		c.output().appendWindowUpdate(s.id, uint32(s.padding))
		s.recvWindow += s.padding
		s.padding = 0
	}
}

// onClosedStreamData judges DATA on a stream that is not open: what was on its
// way when we reset it is thrown away, the rest is an error (RFC 9113 section
// 5.1). c.mu is held.
func (c *Conn) onClosedStreamData(h frameHeader, payload int) error {
	if err := c.checkNotIdle(h.id); err != nil {
		return err
	}
	end, cost := h.has(flagEndStream), int32(0)
	if payload == 0 && !end {
		cost = 2
	}
	// Before late, which forgets a stream that is at its end.
	if !c.resets.spend(h.id, h.length) {
		return connError(FlowControlError, "DATA beyond the window of a stream that was reset")
	}
	if late, err := c.late(h.id, cost, end); late {
		return err
	}
	return &streamError{h.id, StreamClosed, "DATA on a closed stream"}
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
