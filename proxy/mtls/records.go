package mtls

import (
	"encoding/binary"
	"errors"
	"time"
)

// recordHeader is the length of a record's header (RFC 8446 section 5.1).
const recordHeader = 5

// records follows a stream of records. The zero value is at the beginning.
type records struct {
	header [recordHeader]byte
	have   int // octets of header that have come
	left   int // octets that are still to come of a record whose header is complete
	// whole counts complete records.
	whole int
}

// inside says whether the stream is in the middle of a record.
func (r *records) inside() bool { return r.have > 0 }

// step returns how many octets of p belong to the present record.
func (r *records) step(p []byte) int {
	if r.have == recordHeader {
		return min(r.left, len(p))
	}
	var header [recordHeader]byte
	n := copy(header[copy(header[:], r.header[:r.have]):], p)
	if r.have+n < recordHeader {
		return n
	}
	return min(n+payloadLength(header[:]), len(p))
}

// pass goes past octets of which step has spoken.
func (r *records) pass(p []byte) {
	if r.have < recordHeader {
		n := copy(r.header[r.have:], p)
		r.have += n
		p = p[n:]
		if r.have < recordHeader {
			return
		}
		r.left = payloadLength(r.header[:])
	}
	if r.left -= len(p); r.left == 0 {
		r.have = 0
		r.whole++
	}
}

// take returns how many octets of p to hand over where there is room for so many:
// complete records, and a part of one only where not even one fits.
func (r *records) take(p []byte, room int) int {
	n := 0
	for n < len(p) {
		step := r.step(p[n:])
		if n+step > room {
			if n > 0 {
				break
			}
			step = room
		}
		r.pass(p[n : n+step])
		n += step
	}
	return n
}

func payloadLength(header []byte) int { return int(binary.BigEndian.Uint16(header[3:])) }

// errChatter is why a connection is ended whose peer keeps us busy with records that
// bring nothing.
var errChatter = errors.New("the peer sends TLS records without end that bring nothing, such as key updates")

const (
	// chatterBurst and chatterPerSecond are how many records may bring nothing: session
	// tickets, of which a server sends a few at the beginning, and key updates, of
	// which there may be one in many gigabytes.
	chatterBurst     = 64
	chatterPerSecond = 4
)

// chatter bounds the records that bring nothing: each can cost more than a thousand
// octets of data do. The zero value is ready.
type chatter struct {
	spent int
	last  time.Time
}

// note counts n of them.
func (c *chatter) note(n int) error {
	if n == 0 {
		return nil
	}
	now := time.Now()
	if c.spent > 0 {
		c.spent = max(0, c.spent-int(min(now.Sub(c.last), time.Hour).Seconds()*chatterPerSecond))
	}
	c.last = now
	if c.spent += n; c.spent > chatterBurst {
		return errChatter
	}
	return nil
}
