package h2

import (
	"math"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Owner is told what happens to its streams. Every call is made with no lock of
// the engine's held, by the goroutine that b belongs to; calls of different
// goroutines may come at the same time, and late ones after the stream was
// closed and reused: gen says which life of the stream is meant.
type Owner interface {
	// OnHeaders brings a request, a response or trailers; end says that nothing
	// follows. Even a request may come late, where its connection ended just then. h and what it refers to are valid during the call, but see
	// [Head.Take].
	OnHeaders(b *Batch, s *Stream, gen uint32, h *Head, end bool)
	// OnData brings bytes of DATA, which are valid during the call. The peer's
	// window shrinks by them until they are given back with [Stream.Consume].
	OnData(b *Batch, s *Stream, gen uint32, p []byte, end bool)
	// OnReset says that the stream ended early: the peer reset it, the
	// connection ended, or the engine had to. It is closed then.
	OnReset(b *Batch, s *Stream, gen uint32, r Reset)
	// OnTaken says that n bytes of those that SendData had parked went on.
	OnTaken(b *Batch, s *Stream, gen uint32, n int)
	// OnClosed is the last call of a life: the engine has let go of the stream.
	OnClosed(b *Batch, s *Stream, gen uint32)
}

// Reset says why a stream ended early.
type Reset struct {
	Code  ErrCode
	Cause Cause
	// Unprocessed says that the peer provably has not begun to process the
	// request, so that it may be sent again elsewhere: REFUSED_STREAM, beyond
	// the last id of a GOAWAY, or never written (RFC 9113 section 8.7).
	Unprocessed bool
	// Err is the end of the connection, where Cause is CauseConn.
	Err error
}

// Cause is who ended a stream early.
type Cause uint8

// The causes.
const (
	// CausePeer is a RST_STREAM frame of the peer's.
	CausePeer Cause = iota
	// CauseConn is the end of the connection.
	CauseConn
	// CauseMalformed is a violation of the protocol by the peer; the engine has
	// reset the stream.
	CauseMalformed
	// CauseOverBudget is more parked output than the process may keep; the
	// engine has reset the stream.
	CauseOverBudget
	// CauseGoAway is a GOAWAY frame whose last id is below the stream's.
	CauseGoAway
)

// Stream is one HTTP/2 stream (RFC 9113 section 5). Its memory belongs to its
// owner, who calls Init once.
type Stream struct {
	// owner is written once, by Init: events for an earlier life may read it
	// while the next begins.
	owner Owner

	life
}

// life is what begin makes anew.
type life struct {
	conn *Conn

	// Everything below is guarded by conn.mu, up to the next remark.

	id  uint32 // 0: waiting to be opened
	gen uint32
	// The stream's state. RFC 9113's "half-closed (local)" is sentEnd, its
	// "half-closed (remote)" gotEnd; open is false in "idle" and "closed".
	open    bool
	sentEnd bool
	gotEnd  bool
	// ending: the owner has handed over the last it sends; some may be parked.
	ending bool
	// gotHead: the request's or the final response's header section has come.
	gotHead bool
	// answered: a header section was sent.
	answered bool

	sendWindow int32
	recvWindow int32
	// inOutput is how much of its DATA went to the output in outputEpoch.
	inOutput    int32
	outputEpoch uint32
	// headersAt is where the stream's HEADERS begin in all that the connection
	// ever appended to its output.
	headersAt uint64
	openedAt  int64 // Unix time in nanoseconds
	patience  int32 // see Patience, in ms; only the reader uses it

	padding       int32 // received and not yet given back to the peer's window
	contentLength int64 // -1: none
	received      int64

	parked     *parked
	list       *streamList
	prev, next *Stream

	// Guarded by the owner's lock: bytes that went on and were not yet given
	// back to the peer, and how many are worth a WINDOW_UPDATE.
	consumed int32
	step     int32
}

// Init says whose stream it is. It is called once, before the stream is first
// used.
func (s *Stream) Init(owner Owner) { s.owner = owner }

// Owner returns whose stream it is.
func (s *Stream) Owner() Owner { return s.owner }

// Conn returns the connection of a stream that is or was open.
func (s *Stream) Conn() *Conn { return s.conn }

// begin starts a life of s on c. c.mu is held.
func (s *Stream) begin(c *Conn, now int64) {
	s.life = life{
		conn: c, gen: s.gen + 1, open: true,
		sendWindow: c.peer.initialWindow, recvWindow: c.streamWindow,
		openedAt: now, contentLength: -1, step: c.streamWindow / 4,
	}
}

// SendHeaders sends a header section: a response, an informational response or,
// with end, a complete answer or trailers. It does nothing once the stream is
// closed or its end was sent. It is false where the stream has ended early, which
// it may just have done because the process has no memory to keep what has to wait:
// the owner was told of that, or is told next. fields are only used during the call.
func (s *Stream) SendHeaders(b *Batch, fields []hpack.Field, end bool) (ok bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.ending {
		return s.open
	}
	s.ending = end
	s.answered = true
	b.touch(c)
	if s.parked != nil || c.outputFull() {
		return c.parkHeaders(b, s, fields, end)
	}
	c.writeHeaders(s, fields, end)
	if end {
		c.endLocal(b, s)
	}
	return true
}

// SendData sends bytes of DATA. It returns how many went on at once; the rest,
// which it has copied, is parked, and is reported by [Owner.OnTaken] as it goes
// on. Once the stream is closed all bytes count as gone on.
func (s *Stream) SendData(b *Batch, p []byte, end bool) (taken int) {
	if len(p) == 0 && !end {
		return 0
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.ending {
		return len(p)
	}
	s.ending = end
	b.touch(c)
	if s.parked == nil && !c.outputFull() {
		taken = c.writeData(s, p, end)
		if taken == len(p) {
			if end {
				c.endLocal(b, s)
			}
			return taken
		}
	}
	c.parkData(b, s, p[taken:], end)
	return taken
}

// Reset ends the stream early; the peer is told code. Parked output is dropped.
// The owner still gets OnClosed.
func (s *Stream) Reset(b *Batch, code ErrCode) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.open {
		c.resetStream(b, s, code)
	}
}

// Patience says how long the client may be expected to wait for an answer, such as
// until its deadline: who ends the stream then means no harm. A server's owner
// calls it while it is told of the request, or never.
func (s *Stream) Patience(d time.Duration) {
	s.patience = int32(min(max(d.Milliseconds(), 1), math.MaxInt32))
}

// Consume gives n received bytes back to the peer's window of the stream. The
// caller holds the lock of the stream's owner.
func (s *Stream) Consume(b *Batch, n int) {
	s.consumed += int32(n)
	if s.consumed < s.step {
		return
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.gotEnd {
		return
	}
	b.touch(c)
	c.output().appendWindowUpdate(s.id, uint32(s.consumed))
	s.recvWindow += s.consumed
	c.grow.gaveBack(s, s.consumed)
	s.consumed = 0
	s.step = c.streamWindow / 4
}

// streamList is a list of streams in the order in which they take their turns.
type streamList struct{ head, tail *Stream }

func (l *streamList) push(s *Stream) {
	s.list, s.prev, s.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = s
	} else {
		l.head = s
	}
	l.tail = s
}

func (l *streamList) remove(s *Stream) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.tail = s.prev
	}
	s.list, s.prev, s.next = nil, nil, nil
}

func (l *streamList) pop() *Stream {
	s := l.head
	if s != nil {
		l.remove(s)
	}
	return s
}
