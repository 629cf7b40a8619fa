package h2

import (
	"sync"
	"testing"
)

// hop carries one exchange from a server connection to a client connection, as a
// proxy does. Hops are pooled, as a proxy's are: an event of an earlier life may
// come late.
type hop struct {
	mu       sync.Mutex
	proxy    *proxy
	down, up side
}

// side is one of a hop's two streams.
type side struct {
	h     *hop
	other *side
	s     Stream
	gen   uint32 // 0: not in use
	ended bool   // all has come that will
}

// proxy is a handler of server connections that sends every request on over one
// client connection.
type proxy struct {
	t    testing.TB
	up   *Conn
	pool sync.Pool
}

func (p *proxy) NewStream(*Conn) *Stream {
	h, _ := p.pool.Get().(*hop)
	if h == nil {
		h = &hop{proxy: p}
		h.down.h, h.up.h = h, h
		h.down.other, h.up.other = &h.up, &h.down
		h.down.s.Init(&h.down)
		h.up.s.Init(&h.up)
	}
	return &h.down.s
}
func (p *proxy) OnConnSlots(*Batch, *Conn)         {}
func (p *proxy) OnConnDraining(*Batch, *Conn)      {}
func (p *proxy) OnConnClosed(*Batch, *Conn, error) {}

func (s *side) OnHeaders(b *Batch, _ *Stream, gen uint32, head *Head, end bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if head.Kind == HeadRequest {
		s.gen, s.ended, s.other.ended = gen, end, false
		up, err := s.h.proxy.up.Open(b, &s.other.s, head.Fields(), end)
		if err != nil {
			s.s.SendHeaders(b, fields(":status", "503"), true)
			return
		}
		s.other.gen = up
		return
	}
	if gen != s.gen {
		return
	}
	s.ended = end
	if s.other.gen != 0 {
		s.other.s.SendHeaders(b, head.Fields(), end)
	}
}

func (s *side) OnData(b *Batch, _ *Stream, gen uint32, p []byte, end bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if gen != s.gen {
		return
	}
	s.ended = end
	n := len(p)
	if s.other.gen != 0 {
		n = s.other.s.SendData(b, p, end)
	}
	s.s.Consume(b, n)
}

func (s *side) OnTaken(b *Batch, _ *Stream, gen uint32, n int) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if gen == s.gen && s.other.gen != 0 {
		s.other.s.Consume(b, n)
	}
}

func (s *side) OnReset(b *Batch, _ *Stream, gen uint32, r Reset) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if gen == s.gen && s.other.gen != 0 {
		s.other.s.Reset(b, r.Code)
	}
}

func (s *side) OnClosed(b *Batch, _ *Stream, gen uint32) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if gen != s.gen {
		s.h.proxy.t.Errorf("OnClosed of life %d in life %d", gen, s.gen)
		return
	}
	s.gen = 0
	if s.other.gen == 0 {
		s.h.proxy.pool.Put(s.h)
	} else if !s.ended {
		s.other.s.Reset(b, Cancel)
	}
}
