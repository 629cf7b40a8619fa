package h2

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// link is one direction of a simulated connection: a queue with room for so many
// bytes, as a socket's buffers are. Its waits are visible to synctest.
type link struct {
	mu   sync.Mutex
	cond sync.Cond
	buf  []byte
	room int  // bytes that buf may hold; writes take what fits
	most int  // the most that one Read brings, 0: no bound
	hold bool // reads find nothing yet
	fin  bool
	rerr error // what reads fail with, at once
	werr error // what writes fail with
}

func newLink() *link {
	l := &link{room: 1 << 20}
	l.cond.L = &l.mu
	return l
}

// size is how many bytes are on their way.
func (l *link) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buf)
}

// put appends what there is room for.
func (l *link) put(p []byte) (int, error) {
	if l.werr != nil {
		return 0, l.werr
	}
	n := min(len(p), max(0, l.room-len(l.buf)))
	l.buf = append(l.buf, p[:n]...)
	l.cond.Broadcast()
	return n, nil
}

// fail has reads and writes fail from now on.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rerr, l.werr = err, err
	l.cond.Broadcast()
}

// setHold says whether reads find nothing, whatever is there.
func (l *link) setHold(hold bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = hold
	l.cond.Broadcast()
}

// simEnd is one end of a simulated connection.
type simEnd struct {
	in, out *link

	readDeadline time.Time // guarded by in.mu
	readTimer    *time.Timer
}

// newSim returns the two ends of a simulated connection.
func newSim() (a, b *simEnd) {
	ab, ba := newLink(), newLink()
	return &simEnd{in: ba, out: ab}, &simEnd{in: ab, out: ba}
}

func (e *simEnd) Read(lender Lender) (int, error) {
	l := e.in
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch expired := !e.readDeadline.IsZero() && !time.Now().Before(e.readDeadline); {
		case l.rerr != nil:
			return 0, l.rerr
		case expired:
			return 0, os.ErrDeadlineExceeded
		case l.hold:
		case len(l.buf) > 0:
			p := lender.Lend()
			if l.most > 0 {
				p = p[:min(len(p), l.most)]
			}
			n := copy(p, l.buf)
			l.buf = l.buf[n:]
			l.cond.Broadcast()
			return n, nil
		case l.fin:
			return 0, io.EOF
		}
		l.cond.Wait()
	}
}

func (e *simEnd) TryWrite(p []byte) (int, bool, error) {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	n, err := e.out.put(p)
	return n, false, err
}

func (e *simEnd) Write(p []byte, stall time.Duration) (int, error) {
	l := e.out
	l.mu.Lock()
	defer l.mu.Unlock()
	total := 0
	for {
		n, err := l.put(p[total:])
		total += n
		if err != nil || total == len(p) {
			return total, err
		}
		if n == 0 && !l.waitFor(stall) {
			return total, os.ErrDeadlineExceeded
		}
	}
}

// waitFor waits for a change, and returns false where none came in time.
func (l *link) waitFor(d time.Duration) bool {
	if d <= 0 {
		l.cond.Wait()
		return true
	}
	deadline := time.Now().Add(d)
	timer := time.AfterFunc(d, func() {
		l.mu.Lock() // or it comes before the wait
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})
	defer timer.Stop()
	l.cond.Wait()
	return time.Now().Before(deadline)
}

func (e *simEnd) CloseWrite() error {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	e.out.fin = true
	e.out.werr = syscall.EPIPE
	e.out.cond.Broadcast()
	return nil
}

func (e *simEnd) SetReadDeadline(t time.Time) error {
	l := e.in
	l.mu.Lock()
	defer l.mu.Unlock()
	e.readDeadline = t
	if e.readTimer != nil {
		e.readTimer.Stop()
	}
	if !t.IsZero() {
		e.readTimer = time.AfterFunc(time.Until(t), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.cond.Broadcast()
		})
	}
	return nil
}

// Close closes the socket. As with TCP, unread input makes of it a reset, which
// throws away what the peer has not read yet.
func (e *simEnd) Close() error {
	e.in.mu.Lock()
	unread := len(e.in.buf) > 0
	e.in.buf = nil
	if e.in.rerr == nil {
		e.in.rerr = net.ErrClosed
	}
	e.in.werr = syscall.EPIPE
	if e.readTimer != nil {
		e.readTimer.Stop()
	}
	e.in.cond.Broadcast()
	e.in.mu.Unlock()

	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	e.out.fin = true
	e.out.werr = net.ErrClosed
	if unread {
		e.out.buf = nil
		e.out.rerr = syscall.ECONNRESET
	}
	e.out.cond.Broadcast()
	return nil
}

type simAddr string

func (a simAddr) Network() string { return "sim" }
func (a simAddr) String() string  { return string(a) }

func (e *simEnd) RemoteAddr() net.Addr { return simAddr("remote") }
func (e *simEnd) LocalAddr() net.Addr  { return simAddr("local") }
