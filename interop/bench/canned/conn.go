package canned

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// readBuffer is how many bytes one read may bring. It holds several frames
	// of the maximum size.
	readBuffer = 256 << 10
	// quantum is how many bytes of streamed DATA are written at a time, so that
	// unary answers on the same connection do not wait behind a window's worth.
	quantum = 64 << 10
	// maxUnsent bounds what a peer that does not read may make us keep.
	maxUnsent = 64 << 20
	// returnWindow is how many received bytes are given back at once.
	returnWindow = 16 << 20
)

var (
	errPreface   = errors.New("canned: no HTTP/2 preface")
	errFrameSize = errors.New("canned: a frame over the maximum size, or of the wrong length")
	errWindow    = errors.New("canned: a window over its maximum, or an empty increment")
	errUnsent    = errors.New("canned: the peer asks without reading the answers")
	errStreams   = errors.New("canned: more streams than were allowed")
)

// stream is a request that was not fully answered.
type stream struct {
	id uint32
	// window is how many bytes of DATA the peer takes on this stream.
	window int64
	// received counts bytes since the stream's window was last given back.
	received int
	// body is the beginning of the request's body, enough for an order.
	body    [PrefixLen + orderLen]byte
	bodyLen int
	// ended is set once the peer has sent END_STREAM.
	ended bool
	// reply is set while an answer waits for windows or its rate.
	reply *reply
}

// conn is one connection. Its reader answers what can be answered at once;
// its pump, started with the first answer that must wait, sends the rest. Only
// one of them writes at a time, without holding mu; the other appends to out.
type conn struct {
	nc           net.Conn
	responseSize int
	unary        *unary

	mu      sync.Mutex
	out     []byte
	spare   []byte
	writing bool
	// window is the connection's send window, peerInitial what a new stream
	// begins with.
	window      int64
	peerInitial int64
	received    int
	streams     map[uint32]*stream
	free        []*stream
	// lastID is the highest stream id that the peer has opened.
	lastID uint32
	// pending are the streams with a reply, in round-robin order.
	pending []*stream
	pumping bool

	wake   chan struct{}
	closed chan struct{}
	pump   sync.WaitGroup
}

func newConn(nc net.Conn, responseSize int, u *unary) *conn {
	return &conn{
		nc:           nc,
		responseSize: responseSize,
		unary:        u,
		window:       initialWindow,
		peerInitial:  initialWindow,
		streams:      make(map[uint32]*stream),
		wake:         make(chan struct{}, 1),
		closed:       make(chan struct{}),
	}
}

// serve reads until the peer closes or breaks the protocol.
func (c *conn) serve() error {
	defer c.pump.Wait()
	defer close(c.closed)
	defer func() { _ = c.nc.Close() }()

	settings := []byte{
		0, settingMaxConcurrentStreams, 0, 0, maxConcurrentStreams >> 8, maxConcurrentStreams & 0xff,
		0, settingInitialWindowSize, 0x7f, 0xff, 0xff, 0xff,
	}
	c.out = appendFrame(c.out, frameSettings, 0, 0, settings)
	c.out = appendWindowUpdate(c.out, 0, maxWindow-initialWindow)

	buf, n, begun := make([]byte, readBuffer), 0, false
	for {
		m, err := c.nc.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
		p := 0
		if !begun {
			if n < len(preface) {
				continue
			}
			if string(buf[:len(preface)]) != preface {
				return errPreface
			}
			p, begun = len(preface), true
		}
		c.mu.Lock()
		taken, err := c.handleAll(buf[p:n])
		if err == nil {
			err = c.flushLocked()
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		n = copy(buf, buf[p+taken:n])
	}
}

// handleAll works off the whole frames in b and returns how many bytes they
// took.
func (c *conn) handleAll(b []byte) (int, error) {
	p := 0
	for len(b)-p >= frameHeaderLen {
		h := parseFrameHeader(b[p:])
		if h.length > maxFrameSize {
			return p, errFrameSize
		}
		end := p + frameHeaderLen + h.length
		if end > len(b) {
			break
		}
		if err := c.handle(h, b[p+frameHeaderLen:end]); err != nil {
			return p, err
		}
		p = end
	}
	if len(c.out) > maxUnsent {
		return p, errUnsent
	}
	return p, nil
}

func (c *conn) handle(h frameHeader, payload []byte) error {
	switch h.typ {
	case frameHeaders:
		return c.handleHeaders(h)
	case frameContinuation:
		if s := c.streams[h.streamID]; s != nil && s.ended && h.has(flagEndHeaders) {
			return c.answer(s)
		}
	case frameData:
		return c.handleData(h, payload)
	case frameRSTStream:
		if s := c.streams[h.streamID]; s != nil {
			c.remove(s)
		}
	case frameSettings:
		return c.handleSettings(h, payload)
	case framePing:
		if len(payload) != 8 {
			return errFrameSize
		}
		if !h.has(flagAck) {
			c.out = appendFrame(c.out, framePing, flagAck, 0, payload)
		}
	case frameWindowUpdate:
		return c.handleWindowUpdate(h, payload)
	case framePushPromise:
		return fmt.Errorf("canned: PUSH_PROMISE from a client on stream %d", h.streamID)
	}
	// PRIORITY, GOAWAY and unknown frames change nothing here: a client that
	// goes away closes the connection once its streams are done.
	return nil
}

// handleHeaders opens a stream, or ends one (trailers). The block itself is
// not decoded: the peer's encoder state matters to nobody here.
func (c *conn) handleHeaders(h frameHeader) error {
	s := c.streams[h.streamID]
	if s == nil && h.streamID <= c.lastID {
		return nil // trailers of a request that was answered before its end
	}
	if s == nil {
		if len(c.streams) >= maxConcurrentStreams {
			return errStreams
		}
		s = c.newStream(h.streamID)
		c.lastID = h.streamID
	}
	if !h.has(flagEndStream) {
		return nil
	}
	s.ended = true
	if h.has(flagEndHeaders) {
		return c.answer(s)
	}
	return nil
}

func (c *conn) handleData(h frameHeader, payload []byte) error {
	c.received += h.length
	if c.received >= returnWindow {
		c.out = appendWindowUpdate(c.out, 0, c.received)
		c.received = 0
	}
	s := c.streams[h.streamID]
	if s == nil {
		return nil // reset a moment ago
	}
	if h.has(flagPadded) {
		if len(payload) == 0 || int(payload[0]) >= len(payload) {
			return errFrameSize
		}
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	s.bodyLen += copy(s.body[s.bodyLen:], payload)
	if foreign(s.body[:s.bodyLen]) {
		c.out = appendFrame(c.out, frameHeaders, flagEndHeaders|flagEndStream, s.id, unimplemented)
		c.remove(s)
		return nil
	}
	if h.has(flagEndStream) {
		s.ended = true
		return c.answer(s)
	}
	s.received += h.length
	if s.received >= returnWindow {
		c.out = appendWindowUpdate(c.out, s.id, s.received)
		s.received = 0
	}
	return nil
}

func (c *conn) handleSettings(h frameHeader, payload []byte) error {
	if h.has(flagAck) {
		return nil
	}
	if len(payload)%6 != 0 {
		return errFrameSize
	}
	for ; len(payload) > 0; payload = payload[6:] {
		if binary.BigEndian.Uint16(payload) != settingInitialWindowSize {
			continue
		}
		v := int64(binary.BigEndian.Uint32(payload[2:]))
		if v > maxWindow {
			return errWindow
		}
		// RFC 9113 section 6.9.2: the change applies to open streams too.
		for _, s := range c.streams {
			s.window += v - c.peerInitial
		}
		c.peerInitial = v
	}
	c.out = appendFrame(c.out, frameSettings, flagAck, 0, nil)
	return nil
}

func (c *conn) handleWindowUpdate(h frameHeader, payload []byte) error {
	if len(payload) != 4 {
		return errFrameSize
	}
	n := int64(binary.BigEndian.Uint32(payload) & maxWindow)
	if n == 0 {
		return errWindow
	}
	window := &c.window
	if h.streamID != 0 {
		s := c.streams[h.streamID]
		if s == nil {
			return nil // answered or reset a moment ago
		}
		window = &s.window
	}
	*window += n
	if *window > maxWindow {
		return errWindow
	}
	return nil
}

// answer replies to a request that is complete: at once where the windows have
// room for the canned answer, else by the pump.
func (c *conn) answer(s *stream) error {
	if s.reply != nil {
		return nil // END_STREAM twice
	}
	order, ordered, err := parseOrder(s.body[:s.bodyLen])
	if err != nil {
		return err
	}
	made := c.unary
	if asksHealth(s.body[:s.bodyLen]) {
		made = healthy
	}
	if !ordered && c.window >= made.data && s.window >= made.data {
		c.out = made.appendTo(c.out, s.id)
		c.window -= made.data
		c.remove(s)
		return nil
	}
	if !ordered {
		order = Order{Messages: 1, Size: uint32(c.responseSize)}
	}
	c.out = appendFrame(c.out, frameHeaders, flagEndHeaders, s.id, responseHeaders)
	s.reply = newReply(order, time.Now())
	c.pending = append(c.pending, s)
	if !c.pumping {
		c.pumping = true
		c.pump.Go(c.runPump)
	}
	return nil
}

func (c *conn) newStream(id uint32) *stream {
	s := new(stream)
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	}
	*s = stream{id: id, window: c.peerInitial}
	c.streams[id] = s
	return s
}

func (c *conn) remove(s *stream) {
	delete(c.streams, s.id)
	if s.reply == nil {
		c.free = append(c.free, s)
		return
	}
	for i, p := range c.pending {
		if p == s {
			c.pending = append(c.pending[:i], c.pending[i+1:]...)
			break
		}
	}
}
