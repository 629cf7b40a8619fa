package wire

// prefixLen is the length of what stands before each message: a byte that says
// whether it is compressed, and four of length, most significant first.
const prefixLen = 5

// Messages follows the length-prefixed messages of one direction of one
// stream, wherever DATA frames happen to cut them. It looks at the prefixes
// only, and never asks whether a message is too long: that is for the peers to
// decide. The zero Messages is ready, at the start of a stream. It is not safe
// for concurrent use.
type Messages struct {
	left   uint32 // of the message's body; while the prefix is read, the length so far
	prefix uint8  // bytes of the message's prefix that were seen; prefixLen: in its body
}

// Feed takes the next bytes of the stream and returns how many messages ended
// within them.
func (m *Messages) Feed(p []byte) (completed int) {
	for len(p) > 0 {
		if m.prefix < prefixLen {
			if m.prefix == 0 && len(p) >= prefixLen {
				m.left = uint32(p[1])<<24 | uint32(p[2])<<16 | uint32(p[3])<<8 | uint32(p[4])
				m.prefix = prefixLen
				p = p[prefixLen:]
			} else {
				if m.prefix > 0 { // the first byte says whether the message is compressed
					m.left = m.left<<8 | uint32(p[0])
				}
				m.prefix++
				p = p[1:]
			}
			if m.prefix < prefixLen {
				continue
			}
		}
		if uint64(len(p)) < uint64(m.left) {
			m.left -= uint32(len(p))
			return completed
		}
		p = p[m.left:]
		*m = Messages{}
		completed++
	}
	return completed
}

// Rest returns how many of the next bytes of the stream belong to the message that is
// under way, and whether it ends with them. The stream is where it was.
func (m *Messages) Rest(p []byte) (n int, ends bool) {
	next := *m
	for ; n < len(p) && next.prefix < prefixLen; n++ {
		if next.Feed(p[n:n+1]) > 0 {
			return n + 1, true
		}
	}
	if next.prefix < prefixLen || uint64(len(p)-n) < uint64(next.left) {
		return len(p), false
	}
	return n + int(next.left), true
}

// AtBoundary reports whether no message is under way: all that were begun are
// complete.
func (m *Messages) AtBoundary() bool { return m.prefix == 0 }
