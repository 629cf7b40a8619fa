package canned

import (
	"encoding/binary"
	"time"
)

// zeros is what every message consists of.
var zeros [maxFrameSize]byte

// reply is the answer that a stream is still owed where it could not be sent
// at once. Each message begins a frame of its own and is cut at the frame's
// maximum, as grpc-go does it.
type reply struct {
	order Order
	// unbounded is set for a reply of endless messages.
	unbounded bool
	// left is how many messages remain, the one under way included.
	left uint32
	// at is how far into the message the reply is, prefix included.
	at int
	// sent counts all bytes of DATA since start, for the rate.
	sent  int64
	start time.Time
}

func newReply(o Order, now time.Time) *reply {
	return &reply{order: o, unbounded: o.Messages == 0, left: o.Messages, start: now}
}

func (r *reply) done() bool { return !r.unbounded && r.left == 0 }

// due is when the rate allows the next frame; the zero time is now.
func (r *reply) due() time.Time {
	if r.order.Rate == 0 {
		return time.Time{}
	}
	return r.start.Add(time.Duration(float64(r.sent) / float64(r.order.Rate) * float64(time.Second)))
}

// appendData appends one DATA frame of at most window bytes, and returns how
// many it took of the window.
func (r *reply) appendData(b []byte, streamID uint32, window int64) ([]byte, int64) {
	message := PrefixLen + int(r.order.Size)
	n := min(message-r.at, maxFrameSize, int(window))
	b = appendFrameHeader(b, frameHeader{n, frameData, 0, streamID})
	var prefix [PrefixLen]byte
	binary.BigEndian.PutUint32(prefix[1:], r.order.Size)
	fromPrefix := 0
	if r.at < PrefixLen {
		fromPrefix = min(PrefixLen-r.at, n)
		b = append(b, prefix[r.at:r.at+fromPrefix]...)
	}
	b = append(b, zeros[:n-fromPrefix]...)
	r.at += n
	r.sent += int64(n)
	if r.at == message {
		r.at = 0
		if !r.unbounded {
			r.left--
		}
	}
	return b, int64(n)
}
