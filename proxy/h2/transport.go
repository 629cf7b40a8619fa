package h2

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Lender lends the reader a buffer once there may be something to read, so that
// an idle connection holds none.
type Lender interface {
	// Lend returns a buffer to read into.
	Lend() []byte
	// Return takes the buffer back: nothing was read into it.
	Return()
}

// Transport is a byte stream as the engine needs it. One goroutine reads, and
// one at a time writes; Close may be called by any.
type Transport interface {
	// Read waits until there is something to read and reads it into a lent
	// buffer. It returns 0 and io.EOF or another error at the end.
	Read(l Lender) (int, error)
	// TryWrite takes what can be written without waiting. It returns fewer
	// bytes than len(p) and no error where the peer takes no more now. pending
	// says that what was taken, now or before, is not all out yet, as with TLS,
	// where it cannot be given back: Write has to be called to finish it, be it
	// with nothing more to write.
	TryWrite(p []byte) (n int, pending bool, err error)
	// Write writes all of p, after what is pending, waiting for the peer as long
	// as each wait is shorter than stall (0: for ever). With an error n counts
	// what may have reached the peer.
	Write(p []byte, stall time.Duration) (n int, err error)
	// CloseWrite says that nothing more will be written.
	CloseWrite() error
	// SetReadDeadline bounds Read; the zero time means no bound.
	SetReadDeadline(t time.Time) error
	Close() error
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
}

// NewTransport makes a transport of a connection: an efficient one of a socket,
// a plain one of anything else, such as an in-memory pipe, unless it has a method
// Transport, which returns its own.
func NewTransport(nc net.Conn) Transport {
	if own, ok := nc.(interface{ Transport() Transport }); ok {
		return own.Transport()
	}
	if sc, ok := nc.(syscall.Conn); ok {
		if rc, err := sc.SyscallConn(); err == nil {
			return newSocket(nc, rc)
		}
	}
	return &stream{Conn: nc}
}

// socketBeneath returns the socket that t is, or that t says it writes to: nil where
// there is none.
func socketBeneath(t Transport) *socket {
	if above, is := t.(interface{ Beneath() Transport }); is {
		t = above.Beneath()
	}
	s, _ := t.(*socket)
	return s
}

// socket reads and writes a non-blocking socket with plain system calls, and
// lets the runtime's poller do only the waiting.
type socket struct {
	net.Conn
	rc syscall.RawConn

	// The callbacks of rc and what goes in and out of them, kept so that no
	// call makes a closure. The read side's belong to the reader, the write
	// side's to the owner of writing.
	onReadable func(fd uintptr) bool
	lender     Lender
	readN      int
	readErr    error
	waited     bool
	tries      bool // readOnce does not have the runtime wait

	onWritable func(fd uintptr) bool
	writeP     []byte
	writeN     int
	writeErr   error
}

func newSocket(nc net.Conn, rc syscall.RawConn) *socket {
	s := &socket{Conn: nc, rc: rc}
	s.onReadable = s.readOnce
	s.onWritable = s.writeOnce
	return s
}

// readOnce is called when the socket may be readable; false makes the runtime
// wait and call again.
func (s *socket) readOnce(fd uintptr) bool {
	p := s.lender.Lend()
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			s.lender.Return()
			if s.tries {
				s.readN, s.readErr = 0, err
				return true
			}
			s.waited = true
			return false
		case n < 0:
			n = 0
		}
		s.readN, s.readErr = n, err
		return true
	}
}

func (s *socket) Read(l Lender) (int, error) {
	s.waited = false
	return s.read(l)
}

// TryRead implements moreReader.
func (s *socket) TryRead(l Lender) (int, error) {
	s.tries = true
	n, err := s.read(l)
	s.tries = false
	if err == syscall.EAGAIN {
		return 0, nil
	}
	return n, err
}

func (s *socket) read(l Lender) (int, error) {
	s.lender = l
	if err := s.rc.Read(s.onReadable); err != nil {
		return 0, err
	}
	if s.readErr != nil {
		return 0, s.readErr
	}
	if s.readN == 0 {
		return 0, io.EOF
	}
	return s.readN, nil
}

// Waited implements wayMaker.
func (s *socket) Waited() bool { return s.waited }

// MakeWay implements wayMaker.
func (s *socket) MakeWay() { wayside.pass() }

// writeOnce is called by TryWrite; it always returns true, so that the runtime
// never waits.
func (s *socket) writeOnce(fd uintptr) bool {
	for s.writeN < len(s.writeP) {
		n, err := syscall.Write(int(fd), s.writeP[s.writeN:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			if err != syscall.EAGAIN {
				s.writeErr = err
			}
			return true
		}
		s.writeN += n
	}
	return true
}

func (s *socket) TryWrite(p []byte) (n int, pending bool, err error) {
	s.writeP, s.writeN, s.writeErr = p, 0, nil
	err = s.rc.Write(s.onWritable)
	s.writeP = nil
	if err == nil {
		err = s.writeErr
	}
	return s.writeN, false, err
}

func (s *socket) Write(p []byte, stall time.Duration) (int, error) {
	return writeAll(s.Conn, p, stall)
}

func (s *socket) CloseWrite() error { return closeWrite(s.Conn) }

// stream is a transport over any net.Conn. It cannot try to write, so all its
// output goes through the writer goroutine.
type stream struct {
	net.Conn
	closed atomic.Bool

	// first takes what comes after a pause, so that a connection that waits holds
	// no buffer; more says that it was filled, and the rest waits behind it.
	first [1024]byte
	more  bool
}

func (s *stream) Read(l Lender) (int, error) {
	if s.more {
		p := l.Lend()
		n, err := s.Conn.Read(p)
		s.more = n == len(p)
		if n > 0 {
			return n, nil
		}
		l.Return()
		return 0, err
	}
	n, err := s.Conn.Read(s.first[:])
	if n == 0 {
		return 0, err
	}
	s.more = n == len(s.first)
	return copy(l.Lend(), s.first[:n]), nil
}

func (s *stream) TryWrite([]byte) (n int, pending bool, err error) {
	if s.closed.Load() {
		return 0, false, net.ErrClosed
	}
	return 0, false, nil
}

func (s *stream) Write(p []byte, stall time.Duration) (int, error) {
	return writeAll(s.Conn, p, stall)
}

func (s *stream) CloseWrite() error { return closeWrite(s.Conn) }

func (s *stream) Close() error {
	s.closed.Store(true)
	return s.Conn.Close()
}

// writeAll writes p, and gives up when the peer takes nothing for as long as
// stall.
func writeAll(nc net.Conn, p []byte, stall time.Duration) (total int, err error) {
	if stall > 0 {
		// A deadline that is left behind fails the next write, however short, as
		// soon as it has passed.
		defer func() { _ = nc.SetWriteDeadline(time.Time{}) }()
	}
	for total < len(p) {
		if stall > 0 {
			if err := nc.SetWriteDeadline(time.Now().Add(stall)); err != nil {
				return total, err
			}
		}
		n, err := nc.Write(p[total:])
		total += n
		if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func closeWrite(nc net.Conn) error {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
