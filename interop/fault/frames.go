package fault

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2"
)

// frameHeader is a frame's first bytes: length, type, flags, stream (RFC 9113
// section 4.1).
const frameHeader = 9

// scanner finds the frames in one direction of a connection. Where the bytes are
// not HTTP/2 from the preface on, it finds none.
type scanner struct {
	off     bool
	preface []byte // what is still to come of it
	offset  int64  // of the next byte that feed is given
	next    int64  // where the next frame begins
}

func newScanner(d Direction, raw bool) *scanner {
	s := &scanner{off: raw}
	if d == ToServer {
		s.preface = []byte(http2.ClientPreface)
		s.next = int64(len(s.preface))
	}

	return s
}

// frame is where a frame is, counted in bytes from the connection's begin.
type frame struct {
	kind       http2.FrameType
	start, end int64
}

// feed takes bytes and calls found for each frame that begins in them. It returns
// how many of them may go on: not the last few, where they are a part of a
// frame's header, which has to be given again with what follows.
func (s *scanner) feed(data []byte, found func(frame)) int {
	s.checkPreface(data)
	if s.off {
		s.offset += int64(len(data))

		return len(data)
	}

	for s.next < s.offset+int64(len(data)) {
		at := int(s.next - s.offset)
		if len(data)-at < frameHeader {
			s.offset += int64(at)

			return at
		}
		header := data[at:]
		f := frame{kind: http2.FrameType(header[3]), start: s.next}
		f.end = f.start + frameHeader + int64(binary.BigEndian.Uint32(header)>>8)
		s.next = f.end
		found(f)
	}
	s.offset += int64(len(data))

	return len(data)
}

func (s *scanner) checkPreface(data []byte) {
	n := min(len(s.preface), len(data))
	if !bytes.Equal(data[:n], s.preface[:n]) {
		s.off = true
	}
	s.preface = s.preface[n:]
}

// knife finds where a connection is to be cut in one direction.
type knife struct {
	cut  *Cut
	from int64 // where the counting began
	seen int   // frames that counted
	at   int64 // the place, -1 as long as it is not known
	done bool  // the place has come
}

// take takes over what is to be cut, at an offset of the connection.
func (k *knife) take(cut *Cut, offset int64) {
	if k.cut == cut {
		return
	}
	*k = knife{cut: cut, from: offset, at: -1}
	if cut != nil && cut.Frame == nil {
		k.at = offset + cut.Bytes
	}
}

func (k *knife) frame(f frame) {
	if k.cut == nil || k.cut.Frame == nil || k.at >= 0 {
		return
	}
	place := k.cut.Frame
	if place.Type != AnyType && place.Type != f.kind {
		return
	}
	k.seen++
	if k.seen < place.Nth {
		return
	}
	if place.FromEnd {
		k.at = max(f.end+int64(place.Offset), f.start)
	} else {
		k.at = f.start + int64(max(place.Offset, 0))
	}
}
