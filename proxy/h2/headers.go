package h2

import (
	"encoding/binary"
	"strconv"
	"sync"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// HeadKind says what a header section is.
type HeadKind uint8

// The kinds of header sections (RFC 9113 section 8.1).
const (
	HeadRequest HeadKind = iota
	HeadInformational
	HeadResponse
	HeadTrailers
)

// Head is a header section. Its strings are valid as long as its block.
type Head struct {
	Kind HeadKind
	// Pseudo-header fields of a request; Authority is that of the host field
	// where there is no ":authority".
	Method, Scheme, Authority, Path string
	// Status is a response's ":status".
	Status int
	// TooLarge says that the list was longer than SETTINGS_MAX_HEADER_LIST_SIZE
	// and is not complete: a request is to be answered with 431.
	TooLarge bool
	// Regular are the fields that are no pseudo-header fields, in their order.
	Regular []hpack.Field

	block *hpack.Block
}

// Fields are all fields, the pseudo-header fields first, in their order.
func (h *Head) Fields() []hpack.Field { return h.block.Fields }

// Take gives the memory behind the head to the caller, who hands it to FreeBlock
// when done with it.
func (h *Head) Take() *hpack.Block {
	b := h.block
	h.block = nil
	return b
}

var blocks = sync.Pool{New: func() any { return new(hpack.Block) }}

// FreeBlock takes back a block that Head.Take gave away. nil is allowed.
func FreeBlock(b *hpack.Block) {
	if b != nil {
		b.Reset()
		blocks.Put(b)
	}
}

func (r *reader) onHeaders(h frameHeader, p []byte) error {
	if h.id == 0 {
		return connError(ProtocolError, "HEADERS on stream 0")
	}
	p, ok := stripPadding(h, p)
	if !ok {
		return connError(ProtocolError, "HEADERS whose padding is as long as its payload")
	}
	r.selfDependent = false
	if h.has(flagPriority) {
		if len(p) < 5 {
			return connError(FrameSizeError, "HEADERS too short for its priority")
		}
		r.selfDependent = binary.BigEndian.Uint32(p)&maxStreamID == h.id
		p = p[5:]
	}
	if !h.has(flagEndHeaders) {
		r.open, r.conts = h, 0
		r.block = append(r.block[:0], p...)
		return nil
	}
	return r.section(h, p)
}

func (r *reader) onContinuation(h frameHeader, p []byte) error {
	if r.open.id == 0 {
		return connError(ProtocolError, "CONTINUATION without HEADERS")
	}
	r.conts++
	// Encoded, a list can hardly be longer than its own size; a block that is
	// has to be decoded in full only to be thrown away.
	if r.conts > int(r.c.cfg.MaxContinuations) || len(r.block)+len(p) > int(r.c.cfg.MaxHeaderListSize)+minMaxFrameSize {
		return connError(EnhanceYourCalm, "a header block that is too long")
	}
	r.block = append(r.block, p...)
	if !h.has(flagEndHeaders) {
		return nil
	}
	h, r.open = r.open, frameHeader{}
	block := r.block
	r.block = nil
	return r.section(h, block)
}

// section decodes a complete header block and hands it on. A block is decoded
// whatever becomes of its stream, or the compression state would be wrong for
// all that follow (RFC 9113 section 4.3).
func (r *reader) section(h frameHeader, p []byte) error {
	head := &r.head
	if head.block == nil {
		head.block = blocks.Get().(*hpack.Block)
	} else {
		head.block.Reset()
	}
	*head = Head{block: head.block}
	if err := r.dec.Decode(p, r.c.cfg.MaxHeaderListSize, head.block); err == hpack.ErrListTooLarge {
		head.TooLarge = true
	} else if err != nil {
		return connError(CompressionError, err.Error())
	}
	r.turn.decoded(len(p) + head.block.Listed())
	if r.c.role == Server {
		return r.request(h, head)
	}
	return r.response(h, head)
}

// request handles a header section of a client's: a new request or trailers.
func (r *reader) request(h frameHeader, head *Head) error {
	c, b := r.c, &r.batch
	end := h.has(flagEndStream)
	if h.id%2 == 0 {
		return connError(ProtocolError, "a client's stream with an even id")
	}
	if h.id <= c.lastID { // which only the reader changes
		c.mu.Lock()
		defer c.mu.Unlock()
		return r.trailers(h, head, end)
	}
	length, bad := head.checkRequest()
	if r.selfDependent {
		bad = "a stream that depends on itself"
	}
	if err := c.admit(h.id, bad); err != nil || h.id > c.lastID {
		return err
	}
	s := c.handler.NewStream(c)
	now := b.Now().UnixNano()
	c.mu.Lock()
	s.begin(c, now)
	s.id = h.id
	s.gotHead = true
	s.contentLength = length
	c.streams.put(s)
	gen, dead := s.gen, c.dead
	var err error
	if dead { // in the meantime; c.end did not see the stream
		c.forget(b, s)
	} else if end {
		err = c.endRemote(b, s)
	}
	c.mu.Unlock()
	// Where its end is wrong, the owner is told of the request, then of that.
	s.owner.OnHeaders(b, s, gen, head, end && err == nil)
	if dead {
		s.owner.OnReset(b, s, gen, c.lastReset())
		s.owner.OnClosed(b, s, gen)
	}
	return err
}

// admit decides about a request of a new stream; bad says what is wrong with it.
// One that is to be ignored leaves c.lastID as it is. One that is admitted counts
// as active already, so that a connection that drains does not finish before the
// stream is made.
func (c *Conn) admit(id uint32, bad string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id > c.goAwayID { // the client sends it elsewhere
		return c.nuisance(1)
	}
	first := c.lastID + 2
	if c.lastID == 0 {
		first = 1
	}
	if id > first {
		c.skipped[c.nSkipped%len(c.skipped)] = [2]uint32{first, id - 2}
		c.nSkipped++
	}
	c.lastID = id
	c.noteOpened()
	switch {
	case c.ending:
		return &streamError{id, RefusedStream, "a stream opened when the connection was drained"}
	case c.active >= int(c.cfg.MaxConcurrentStreams):
		return &streamError{id, RefusedStream, "more streams than SETTINGS_MAX_CONCURRENT_STREAMS"}
	case bad != "":
		return &streamError{id, ProtocolError, bad}
	}
	c.active++
	return nil
}

// trailers handles a header section on a stream that is or was open. c.mu is
// held; it is released while the owner is told.
func (r *reader) trailers(h frameHeader, head *Head, end bool) error {
	c, b := r.c, &r.batch
	s := c.streams.get(h.id)
	if s == nil {
		if late, err := c.late(h.id, 1, end); late {
			return err
		}
		if c.wasSkipped(h.id) {
			return connError(ProtocolError, "HEADERS on a stream below the last one opened")
		}
		return connError(StreamClosed, "HEADERS on a closed stream")
	}
	if s.gotEnd {
		return &streamError{h.id, StreamClosed, "HEADERS after END_STREAM"}
	}
	if !end {
		return &streamError{h.id, ProtocolError, "trailers without END_STREAM"}
	}
	bad := head.checkTrailers()
	if head.TooLarge {
		bad = "a header list above SETTINGS_MAX_HEADER_LIST_SIZE"
	}
	if bad != "" {
		return &streamError{h.id, ProtocolError, "malformed trailers: " + bad}
	}
	if err := c.endRemote(b, s); err != nil {
		return err
	}
	gen := s.gen
	c.mu.Unlock()
	defer c.mu.Lock()
	s.owner.OnHeaders(b, s, gen, head, true)
	return nil
}

func (c *Conn) wasSkipped(id uint32) bool {
	for _, gap := range c.skipped {
		if gap[0] != 0 && id >= gap[0] && id <= gap[1] {
			return true
		}
	}
	return false
}

// response handles a header section of a server's.
func (r *reader) response(h frameHeader, head *Head) error {
	c, b := r.c, &r.batch
	end := h.has(flagEndStream)
	c.mu.Lock()
	s := c.streams.get(h.id)
	if s == nil {
		defer c.mu.Unlock()
		if err := c.checkNotIdle(h.id); err != nil {
			return err
		}
		if late, err := c.late(h.id, 1, end); late {
			return err
		}
		return &streamError{h.id, StreamClosed, "HEADERS on a closed stream"}
	}
	if s.gotHead {
		defer c.mu.Unlock()
		return r.trailers(h, head, end)
	}
	gen := s.gen
	length, bad := head.checkResponse()
	if bad == "" && head.TooLarge {
		bad = "a header list above SETTINGS_MAX_HEADER_LIST_SIZE"
	}
	if bad == "" && head.Kind == HeadInformational && end {
		bad = "an informational response with END_STREAM"
	}
	var err error
	switch {
	case bad != "":
		err = &streamError{h.id, ProtocolError, bad}
	case head.Kind == HeadInformational:
		err = c.nuisance(1)
	default:
		s.gotHead, c.answered = true, true
		if !end { // an answer to HEAD may have a length and no content
			s.contentLength = length
		}
		c.usefulWork(1)
		if end {
			err = c.endRemote(b, s)
		}
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	s.owner.OnHeaders(b, s, gen, head, end)
	return nil
}

// pseudo field bits, to find duplicates.
const (
	pseudoMethod = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoStatus
)

// checkRequest checks a request's header section (RFC 9113 sections 8.2 and
// 8.3.1), and takes the pseudo-header fields out of it. It returns the
// content-length, -1 without one, and what is malformed.
func (h *Head) checkRequest() (length int64, bad string) {
	h.Kind = HeadRequest
	fields := h.block.Fields
	seen, i := 0, 0
	for ; i < len(fields) && fields[i].Name != "" && fields[i].Name[0] == ':'; i++ {
		f := &fields[i]
		bit := 0
		switch f.Name {
		case ":method":
			h.Method, bit = f.Value, pseudoMethod
		case ":scheme":
			h.Scheme, bit = f.Value, pseudoScheme
		case ":authority":
			h.Authority, bit = f.Value, pseudoAuthority
		case ":path":
			h.Path, bit = f.Value, pseudoPath
		}
		if bit == 0 {
			return 0, "an unknown pseudo-header field in a request"
		}
		if seen&bit != 0 {
			return 0, "a pseudo-header field twice"
		}
		if !f.Vetted && !validValue(f.Value) {
			return 0, "a character that a field value must not contain"
		}
		seen |= bit
	}
	h.Regular = fields[i:]
	if length, bad = h.checkRegular(); bad != "" {
		return 0, bad
	}
	if h.TooLarge {
		return length, ""
	}
	const need = pseudoMethod | pseudoScheme | pseudoPath
	if h.Method == "CONNECT" {
		if seen&(pseudoScheme|pseudoPath) != 0 || h.Authority == "" {
			return 0, "a malformed CONNECT"
		}
		return length, ""
	}
	if seen&need != need || h.Path == "" || h.Method == "" || h.Scheme == "" {
		return 0, "a request without :method, :scheme or :path"
	}
	return length, ""
}

// checkResponse checks a response's header section (RFC 9113 section 8.3.2).
func (h *Head) checkResponse() (length int64, bad string) {
	h.Kind = HeadResponse
	fields := h.block.Fields
	if len(fields) == 0 || fields[0].Name != ":status" || len(fields[0].Value) != 3 {
		return 0, "a response without :status"
	}
	for _, c := range []byte(fields[0].Value) {
		if c < '0' || c > '9' {
			return 0, malformedStatus
		}
		h.Status = 10*h.Status + int(c-'0')
	}
	if h.Status < 100 || h.Status == 101 { // 101: RFC 9113 section 8.6
		return 0, malformedStatus
	}
	if h.Status < 200 {
		h.Kind = HeadInformational
	}
	h.Regular = fields[1:]
	return h.checkRegular()
}

const malformedStatus = "a response whose :status is no status of HTTP/2"

// checkTrailers checks trailers: no pseudo-header fields (RFC 9113 section 8.1).
func (h *Head) checkTrailers() (bad string) {
	h.Kind = HeadTrailers
	h.Regular = h.block.Fields
	_, bad = h.checkRegular()
	return bad
}

// checkRegular checks the fields that are not pseudo-header fields (RFC 9113
// sections 8.2.1 and 8.2.2).
func (h *Head) checkRegular() (length int64, bad string) {
	length = -1
	hosts := 0
	for i := range h.Regular {
		f := &h.Regular[i]
		if f.Vetted && f.Name[0] != ':' {
			continue // see harmless
		}
		if !validName(f.Name) {
			return 0, "a field name that HTTP/2 does not allow"
		}
		if !validValue(f.Value) {
			return 0, "a character that a field value must not contain"
		}
		switch len(f.Name) {
		case 2:
			if f.Name == "te" && f.Value != "trailers" {
				return 0, "a te field other than trailers"
			}
		case 4:
			if f.Name == "host" {
				if hosts++; hosts > 1 { // RFC 9110 section 7.2: who comes after us may take the other
					return 0, "more than one host field"
				}
				if h.Authority == "" {
					h.Authority = f.Value
				}
			}
		case 7:
			if f.Name == "upgrade" {
				return 0, "a field that is specific to a connection"
			}
		case 10:
			if f.Name == "connection" || f.Name == "keep-alive" {
				return 0, "a field that is specific to a connection"
			}
		case 14:
			if f.Name == "content-length" {
				n, err := strconv.ParseUint(f.Value, 10, 63)
				if err != nil || length >= 0 && length != int64(n) {
					return 0, "a malformed content-length"
				}
				length = int64(n)
			}
		case 16:
			if f.Name == "proxy-connection" {
				return 0, "a field that is specific to a connection"
			}
		case 17:
			if f.Name == "transfer-encoding" {
				return 0, "a field that is specific to a connection"
			}
		}
	}
	return length, ""
}

// Remove takes the regular fields out that unwanted says yes to.
func (h *Head) Remove(unwanted func(*hpack.Field) bool) {
	kept := h.Regular[:0]
	for i := range h.Regular {
		if !unwanted(&h.Regular[i]) {
			kept = append(kept, h.Regular[i])
		}
	}
	all := h.block.Fields
	h.block.Fields = all[:len(all)-len(h.Regular)+len(kept)]
	h.Regular = kept
}
