package h2

import "iter"

// streamTable finds a connection's streams by their ids. Ids rise by two, and most
// streams live as long as their neighbours, so that those alive mostly have places
// of their own in a short ring. Where one has not, because it shares the place with
// a stream that has stayed or the peer leaves ids out, a map has it. It is guarded by
// Conn.mu.
type streamTable struct {
	ring []*Stream // the length is a power of two, or 0
	rest map[uint32]*Stream
	n    int
}

const (
	// A ring has at least so many places for each stream, up to a bound.
	ringShare = 2
	minRing   = 16
	maxRing   = 16 << 10
	// keptRing is what a ring keeps that is empty.
	keptRing = 1024
)

func (t *streamTable) place(id uint32) int { return int(id/2) & (len(t.ring) - 1) }

// get returns the stream with that id, nil if there is none.
func (t *streamTable) get(id uint32) *Stream {
	if at := t.place(id); uint(at) < uint(len(t.ring)) {
		if s := t.ring[at]; s != nil && s.id == id {
			return s
		}
	}
	if len(t.rest) > 0 {
		return t.rest[id]
	}
	return nil
}

// put adds a stream, of whose id there is no other.
func (t *streamTable) put(s *Stream) {
	t.n++
	if t.n*ringShare > len(t.ring) && len(t.ring) < maxRing {
		t.grow()
	}
	t.settle(s)
}

// settle finds a place for a stream.
func (t *streamTable) settle(s *Stream) {
	if at := t.place(s.id); t.ring[at] == nil {
		t.ring[at] = s
		return
	}
	if t.rest == nil {
		t.rest = make(map[uint32]*Stream)
	}
	t.rest[s.id] = s
}

func (t *streamTable) grow() {
	old := *t
	t.ring, t.rest = make([]*Stream, max(minRing, 2*len(t.ring))), nil
	for s := range old.all() {
		t.settle(s)
	}
}

// remove takes a stream out, if it is in the table.
func (t *streamTable) remove(s *Stream) {
	switch at := t.place(s.id); {
	case uint(at) < uint(len(t.ring)) && t.ring[at] == s:
		t.ring[at] = nil
	case t.rest[s.id] == s:
		delete(t.rest, s.id)
	default:
		return
	}
	if t.n--; t.n == 0 && len(t.ring) > keptRing {
		*t = streamTable{}
	}
}

// all goes through all streams. The table must not change meanwhile.
func (t *streamTable) all() iter.Seq[*Stream] {
	return func(yield func(*Stream) bool) {
		for _, s := range t.ring {
			if s != nil && !yield(s) {
				return
			}
		}
		for _, s := range t.rest {
			if !yield(s) {
				return
			}
		}
	}
}

// StreamRef is one life of a stream.
type StreamRef struct {
	Stream *Stream
	Gen    uint32
}

// Streams appends the streams to buf that are open and have an id, and returns it.
func (c *Conn) Streams(buf []StreamRef) []StreamRef {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams.all() {
		buf = append(buf, StreamRef{s, s.gen})
	}
	return buf
}
