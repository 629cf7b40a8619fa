package modeltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// network is where everybody listens and dials.
type network struct {
	w *world

	mu    sync.Mutex
	hosts map[string]*host
	dials map[string]int
	conns []*conn // in the order in which they were made; ended ones too
}

// host is an address that somebody listens at.
type host struct {
	accept func(*end)
	down   bool // dials are refused
	hung   bool // dials get no answer
}

func newNetwork(w *world) *network {
	return &network{w: w, hosts: map[string]*host{}, dials: map[string]int{}}
}

func (n *network) listen(address string, accept func(*end)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = &host{accept: accept}
}

// set changes how a host takes dials.
func (n *network) set(address string, down, hung bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[address]
	h.down, h.hung = down, hung
}

// dialler returns what somebody dials with.
func (n *network) dialler(from string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		e, err := n.dial(ctx, from, address)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

func (n *network) dial(ctx context.Context, from, address string) (*end, error) {
	n.mu.Lock()
	h := n.hosts[address]
	name := from + ">" + address
	n.dials[name]++
	rng := n.w.rng("link "+name, n.dials[name])
	name = fmt.Sprintf("%s#%d", name, n.dials[name])
	n.mu.Unlock()
	if h == nil {
		return nil, errors.New("no such address: " + address)
	}
	style := n.w.plan.link(rng)
	if d := style.latency(); d > 0 {
		time.Sleep(2 * d) // a round trip, and what a caller does not wait for is short
	}
	n.mu.Lock()
	down, hung := h.down, h.hung
	n.mu.Unlock()
	switch {
	case hung:
		<-ctx.Done()
		return nil, ctx.Err()
	case down || n.w.tearingDown():
		return nil, syscall.ECONNREFUSED
	}
	c := &conn{name: name, from: from, to: address, there: newPipe(style), back: newPipe(style)}
	here := &end{c: c, in: c.back, out: c.there}
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
	h.accept(&end{c: c, in: c.there, out: c.back})
	return here, nil
}

// live returns the connections that nothing has ended yet, in an order that
// depends on their names alone.
func (n *network) live(match func(*conn) bool) []*conn {
	n.mu.Lock()
	conns := slices.Clone(n.conns)
	n.mu.Unlock()
	conns = slices.DeleteFunc(conns, func(c *conn) bool { return c.over() || !match(c) })
	slices.SortFunc(conns, func(a, b *conn) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return conns
}

// conn is a connection.
type conn struct {
	name, from, to string
	there, back    *pipe // from who dialled, and to it

	mu     sync.Mutex
	harmed string // what was done to it, "" if nothing
}

// harm notes what is done to a connection: whatever becomes of it is no fault of
// the engine's.
func (c *conn) harm(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.harmed = what
}

func (c *conn) wasHarmed() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.harmed
}

// over says that the connection has ended in one direction at least.
func (c *conn) over() bool {
	ended := func(l *pipe) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.fin || l.rerr != nil || l.werr != nil
	}
	return ended(c.there) || ended(c.back)
}

// reset ends both directions at once; what was not read yet is lost.
func (c *conn) reset() {
	c.there.fail(syscall.ECONNRESET)
	c.back.fail(syscall.ECONNRESET)
}

// linkStyle is how a connection carries bytes.
type linkStyle struct {
	least, spread time.Duration // latency, one way
	rate          int           // bytes per second; 0: no bound
	room          int           // bytes that may be under way in one direction
	most          int           // what one read brings, for the first slow bytes; 0: no bound
	slow          int
	rng           *rand.Rand
}

func (s *linkStyle) latency() time.Duration {
	if s.spread == 0 {
		return s.least
	}
	return s.least + time.Duration(s.rng.Int64N(int64(s.spread)))
}

// pipe is one direction of a connection. Its waits are visible to synctest.
type pipe struct {
	mu   sync.Mutex
	cond sync.Cond

	style     linkStyle
	segments  []segment
	size      int       // bytes of segments
	last      time.Time // when the last segment arrives
	heldUntil time.Time
	fin       bool
	rerr      error // what reads fail with, at once
	werr      error // what writes fail with
	cutAfter  int   // bytes until onCut is called; -1: never
	onCut     func()
}

// segment is bytes that arrive together.
type segment struct {
	at time.Time
	p  []byte
}

func newPipe(style linkStyle) *pipe {
	l := &pipe{style: style, cutAfter: -1}
	l.style.rng = rand.New(rand.NewPCG(style.rng.Uint64(), 1))
	l.cond.L = &l.mu
	return l
}

// put takes what there is room for. l.mu is held.
func (l *pipe) put(p []byte) (int, error) {
	if l.werr != nil {
		return 0, l.werr
	}
	n := min(len(p), max(0, l.style.room-l.size))
	if n == 0 {
		return 0, nil
	}
	at := time.Now()
	if at.Before(l.last) {
		at = l.last
	}
	if l.style.rate > 0 {
		at = at.Add(time.Duration(n) * time.Second / time.Duration(l.style.rate))
	}
	if due := time.Now().Add(l.style.latency()); at.Before(due) {
		at = due
	}
	l.last = at
	l.size += n
	l.segments = append(l.segments, segment{at, slices.Clone(p[:n])})
	l.cond.Broadcast()
	return n, nil
}

// await waits until there is something to read. It returns how many bytes, or why
// there will be none. l.mu is held.
func (l *pipe) await(deadline func() time.Time) (int, error) {
	for {
		now, limit := time.Now(), deadline()
		if l.rerr != nil {
			return 0, l.rerr
		}
		if !limit.IsZero() && !now.Before(limit) {
			return 0, os.ErrDeadlineExceeded
		}
		next := l.heldUntil
		if !now.Before(next) {
			next = time.Time{}
			n := 0
			for _, s := range l.segments {
				if s.at.After(now) {
					next = s.at
					break
				}
				n += len(s.p)
			}
			switch {
			case n > 0:
				return n, nil
			case l.fin && len(l.segments) == 0:
				return 0, io.EOF
			}
		}
		if next.IsZero() || !limit.IsZero() && limit.Before(next) {
			next = limit
		}
		l.waitUntil(next)
	}
}

// waitUntil waits for a change or for a time; zero: for a change only. l.mu is
// held.
func (l *pipe) waitUntil(t time.Time) {
	if t.IsZero() {
		l.cond.Wait()
		return
	}
	timer := time.AfterFunc(time.Until(t), func() {
		l.mu.Lock() // or it comes before the wait
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})
	l.cond.Wait()
	timer.Stop()
}

// take moves up to n bytes to p. l.mu is held.
func (l *pipe) take(p []byte, n int) (got int, cut func()) {
	n = min(n, len(p))
	if l.style.most > 0 && l.style.slow > 0 {
		n = min(n, l.style.most)
		l.style.slow -= n
	}
	if l.cutAfter >= 0 && n >= l.cutAfter {
		n, cut = l.cutAfter, l.onCut
		l.cutAfter = -1
	}
	for got < n {
		s := &l.segments[0]
		m := copy(p[got:n], s.p)
		got += m
		if s.p = s.p[m:]; len(s.p) == 0 {
			l.segments = l.segments[1:]
		}
	}
	if l.cutAfter > 0 {
		l.cutAfter -= got
	}
	l.size -= got
	l.cond.Broadcast()
	return got, cut
}

func (l *pipe) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rerr, l.werr = err, err
	l.cond.Broadcast()
}

// finish ends the direction once what is under way has arrived.
func (l *pipe) finish(werr error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fin = true
	if l.werr == nil {
		l.werr = werr
	}
	l.cond.Broadcast()
}

// hold has reads find nothing until a time.
func (l *pipe) hold(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.After(l.heldUntil) {
		l.heldUntil = until
	}
	l.cond.Broadcast()
}

// cutIn calls f once so many more bytes were read, and gives no more until then.
func (l *pipe) cutIn(n int, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAfter, l.onCut = n, f
}

// end is one end of a connection, as net.Conn; the engine uses it as the
// h2.Transport that Transport returns.
type end struct {
	c       *conn
	in, out *pipe

	readDeadline time.Time // guarded by in.mu
}

// Transport is the end as the engine drives a socket: writes that do not wait.
func (e *end) Transport() h2.Transport { return (*socket)(e) }

func (e *end) limit() time.Time { return e.readDeadline }

func (e *end) Read(p []byte) (int, error) {
	l := e.in
	l.mu.Lock()
	n, err := l.await(e.limit)
	if err != nil {
		l.mu.Unlock()
		return 0, err
	}
	n, cut := l.take(p, n)
	l.mu.Unlock()
	if cut != nil {
		cut()
		if n == 0 {
			return 0, syscall.ECONNRESET
		}
	}
	return n, nil
}

func (e *end) tryWrite(p []byte) (int, error) {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	return e.out.put(p)
}

func (e *end) Write(p []byte) (int, error) { return e.write(p, 0) }

// write writes all of p, as long as each wait is shorter than stall (0: for ever).
func (e *end) write(p []byte, stall time.Duration) (int, error) {
	l := e.out
	l.mu.Lock()
	defer l.mu.Unlock()
	total, since := 0, time.Now()
	for {
		n, err := l.put(p[total:])
		total += n
		switch {
		case err != nil || total == len(p):
			return total, err
		case n > 0:
			since = time.Now()
		case stall > 0 && time.Since(since) >= stall:
			return total, os.ErrDeadlineExceeded
		}
		until := time.Time{}
		if stall > 0 {
			until = since.Add(stall)
		}
		l.waitUntil(until)
	}
}

func (e *end) SetReadDeadline(t time.Time) error {
	l := e.in
	l.mu.Lock()
	defer l.mu.Unlock()
	e.readDeadline = t
	l.cond.Broadcast()
	return nil
}

// Close closes the end. As with TCP, unread input makes of it a reset, which
// throws away what the peer has not read yet.
func (e *end) Close() error {
	e.in.mu.Lock()
	unread := e.in.size > 0
	e.in.segments, e.in.size = nil, 0
	if e.in.rerr == nil {
		e.in.rerr = net.ErrClosed
	}
	if e.in.werr == nil {
		e.in.werr = syscall.EPIPE
	}
	e.in.cond.Broadcast()
	e.in.mu.Unlock()
	e.out.finish(net.ErrClosed)
	if unread {
		e.out.mu.Lock()
		defer e.out.mu.Unlock()
		e.out.rerr = syscall.ECONNRESET
		e.out.cond.Broadcast()
	}
	return nil
}

type address string

func (a address) Network() string { return "memory" }
func (a address) String() string  { return string(a) }

func (e *end) LocalAddr() net.Addr  { return address("local") }
func (e *end) RemoteAddr() net.Addr { return address(e.c.name) }

func (e *end) SetDeadline(time.Time) error      { return nil }
func (e *end) SetWriteDeadline(time.Time) error { return nil }

// socket is an end as an h2.Transport.
type socket end

func (s *socket) Read(lender h2.Lender) (int, error) {
	e := (*end)(s)
	l := e.in
	l.mu.Lock()
	_, err := l.await(e.limit)
	l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := e.Read(lender.Lend())
	if err != nil {
		lender.Return()
	}
	return n, err
}

func (s *socket) TryWrite(p []byte) (int, bool, error) {
	n, err := (*end)(s).tryWrite(p)
	return n, false, err
}
func (s *socket) Write(p []byte, stall time.Duration) (int, error) {
	return (*end)(s).write(p, stall)
}

func (s *socket) CloseWrite() error {
	s.out.finish(syscall.EPIPE)
	return nil
}
func (s *socket) SetReadDeadline(t time.Time) error { return (*end)(s).SetReadDeadline(t) }
func (s *socket) Close() error                      { return (*end)(s).Close() }
func (s *socket) RemoteAddr() net.Addr              { return (*end)(s).RemoteAddr() }
func (s *socket) LocalAddr() net.Addr               { return (*end)(s).LocalAddr() }
