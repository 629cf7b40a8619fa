// Package downstream accepts the connections of callers, bounds how many there
// are, and ends them gracefully. What becomes of their RPCs is not its concern, nor
// how they are secured.
package downstream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/deadpeer"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/fewlines"
)

// Options configure a Server.
type Options struct {
	// HTTP2 must have been through [h2.Config.WithDefaults].
	HTTP2 *h2.Config
	// NewStream returns the stream of a new RPC.
	NewStream func(*h2.Conn) *h2.Stream
	// MaxConns bounds the connections that are open at once; more are told so
	// and closed. Those that are being told, or have ended and still hold their
	// socket for a moment, are bounded too: [Sockets] says how many sockets there
	// are at most, and what is more is closed without a word. 0: no bound.
	MaxConns int
	// ConnsPerSecond bounds how many connections are accepted in a second; one
	// second's may come at once. 0: no bound.
	ConnsPerSecond int
	// DeadAfter is about how long a caller's host that is gone without a word is
	// believed to be there; its RPCs go on for as long. 0: as the system has it.
	DeadAfter time.Duration
	// Secure returns the connection to serve in place of one that was accepted, such
	// as one that speaks TLS. It runs in the connection's own goroutine, for as long as
	// it likes to within a bound of its own; nc is closed after an error, and may be
	// before. nil: the connection itself.
	Secure func(nc net.Conn) (net.Conn, error)
	// Silent says whether an error of Secure's is nothing to complain about, such as
	// that a probe has left. nil: none is.
	Silent func(error) bool
	// Opened is told of a connection before it is served: nc is what Secure returned.
	// It may set the connection's Data. closed is called when it has been served; it
	// may be nil, and so may Opened.
	Opened func(c *h2.Conn, nc net.Conn) (closed func())
	// Open counts the connections that are open.
	Open   *atomic.Int64
	Logger *slog.Logger
}

// Sockets returns how many sockets a server holds at most whose MaxConns is n.
func Sockets(n int) int { return n + max(16, min(n/8, 256)) }

// ConnsFor returns the largest MaxConns of a server that may hold that many
// sockets, at least 1.
func ConnsFor(sockets int) int {
	n := sort.Search(sockets, func(n int) bool { return Sockets(n+1) > sockets })
	return max(n, 1)
}

var (
	errTooMany = errors.New("too many connections to this sidecar")
	errNoRoom  = errors.New("too many connections to this sidecar, and too many that are being told so")
)

// Server holds the connections of callers.
type Server struct {
	opts Options
	// offences are connections ended for an error of the caller's, refusals those
	// that were not taken at all.
	offences, refusals fewlines.Log
	credits            credits
	pace               pace

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*h2.Conn]bool
	securing  map[net.Conn]bool // not yet among conns
	held      int               // sockets: connections, those being secured, and those that have ended and linger
	draining  bool
	settled   bool          // draining, and no connection is accepted any more
	stopping  chan struct{} // closed when draining
	idle      chan struct{} // closed when settled and no connection is left or coming
	accepting sync.WaitGroup
	serving   sync.WaitGroup
}

// New returns a server.
func New(o Options) *Server {
	if o.Open == nil {
		o.Open = new(atomic.Int64)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Server{
		opts: o, listeners: map[net.Listener]bool{}, conns: map[*h2.Conn]bool{}, securing: map[net.Conn]bool{},
		stopping: make(chan struct{}), idle: make(chan struct{}),
		credits: credits{cfg: o.HTTP2},
		pace:    pace{perSecond: float64(o.ConnsPerSecond)},
		offences: fewlines.Log{
			Logger: o.Logger, Level: slog.LevelInfo,
			One: "a caller's connection was ended", More: "more callers' connections were ended",
		},
		refusals: fewlines.Log{
			Logger: o.Logger, Level: slog.LevelWarn,
			One: "a caller's connection was refused", More: "more callers' connections were refused",
		},
	}
}

// Serve accepts connections until Shutdown, and then returns nil. The listener
// is closed then.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = true
	s.accepting.Add(1) // under the lock: Shutdown waits for it once draining is set
	s.mu.Unlock()
	defer s.accepting.Done()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.pace.wait(s.stopping)
			s.serve(nc)
			continue
		}
		if s.isDraining() || errors.Is(err, net.ErrClosed) {
			return nil
		}
		// Out of file descriptors, say: others keep theirs, and it passes.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.opts.Logger.Warn("cannot accept a connection", "listener", l.Addr().String(), "err", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-s.stopping:
			return nil
		}
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// serve takes one connection in. That Shutdown has begun is no reason not to: the
// caller was told that it is connected, and to be cut off would fail its RPCs.
// Shutdown ends it as the others.
func (s *Server) serve(nc net.Conn) {
	most := s.opts.MaxConns
	s.mu.Lock()
	if most > 0 && s.held >= Sockets(most) {
		s.mu.Unlock()
		s.refusals.Note("peer", nc.RemoteAddr().String(), "err", errNoRoom)
		_ = nc.Close()
		return
	}
	s.held++
	// Who connects without end must not have all others wait.
	makeWay := func() {}
	if s.opts.Secure == nil {
		c, full := s.open(nc)
		s.serving.Go(func() { s.run(c, nc, nc, full) })
		makeWay = c.MakeWay
	} else {
		s.securing[nc] = true
		s.serving.Go(func() { s.secure(nc) })
		if w, is := h2.NewTransport(nc).(interface{ MakeWay() }); is {
			makeWay = w.MakeWay
		}
	}
	s.mu.Unlock()
	makeWay()
}

// secure has a connection secured, and then serves it.
func (s *Server) secure(nc net.Conn) {
	secured, err := s.opts.Secure(nc)
	s.mu.Lock()
	delete(s.securing, nc)
	if err != nil {
		s.held--
		s.endIfIdle()
		s.mu.Unlock()
		_ = nc.Close()
		if s.opts.Silent == nil || !s.opts.Silent(err) {
			s.offences.Note("peer", nc.RemoteAddr().String(), "err", err)
		}
		return
	}
	c, full := s.open(secured)
	late := s.settled
	s.mu.Unlock()
	if late { // Shutdown has told the others
		var b h2.Batch
		c.Shutdown(&b)
		b.Done()
	}
	s.run(c, nc, secured, full)
}

// open makes the connection. full says that it is one too many. s.mu is held.
func (s *Server) open(nc net.Conn) (c *h2.Conn, full bool) {
	full = s.opts.MaxConns > 0 && len(s.conns) >= s.opts.MaxConns
	c = h2.New(h2.NewTransport(nc), h2.Server, s.opts.HTTP2, (*handler)(s))
	s.conns[c] = true
	s.opts.Open.Add(1)
	return c, full
}

// run serves a connection until it ends.
func (s *Server) run(c *h2.Conn, nc, secured net.Conn, full bool) {
	if full {
		s.refusals.Note("peer", nc.RemoteAddr().String(), "err", errTooMany)
		var b h2.Batch
		c.Abort(&b, h2.EnhanceYourCalm, errTooMany.Error())
		b.Done()
	}
	if s.opts.DeadAfter > 0 {
		if err := deadpeer.Watch(nc, s.opts.DeadAfter); err != nil {
			s.opts.Logger.Debug("a caller's host is not watched", "peer", nc.RemoteAddr().String(), "err", err)
		}
	}
	if s.opts.Opened != nil {
		if closed := s.opts.Opened(c, secured); closed != nil {
			defer closed()
		}
	}
	s.grant(c)
	c.Serve()
	s.mu.Lock()
	s.held--
	s.mu.Unlock()
}

// Conns returns the connections that are open.
func (s *Server) Conns() []*h2.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// grant gives a connection what is left of its caller's credit. Who has overdrawn it
// waits before he is heard.
func (s *Server) grant(c *h2.Conn) {
	credit := s.credits.get(c.RemoteAddr(), time.Now())
	if wait := credit.Wait(s.opts.HTTP2, time.Now()); wait > 0 {
		// Those who came at the same time shall not all begin at the same time.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.stopping:
		}
	}
	c.Grant(credit)
}

// Shutdown stops accepting and ends all connections gracefully (RFC 9113 section
// 6.8): callers are told to open no new streams, those open go on. It returns
// when all have ended, or with ctx, when it cuts them off. Those that are being secured
// have a moment for it, and are then ended as the others.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	already := s.draining
	s.draining = true
	for l := range s.listeners {
		_ = l.Close()
	}
	if !already {
		close(s.stopping)
	}
	s.mu.Unlock()
	s.accepting.Wait()
	s.mu.Lock()
	s.settled = true
	conns := s.snapshot()
	s.endIfIdle()
	s.mu.Unlock()
	var b h2.Batch
	for _, c := range conns {
		c.Shutdown(&b)
	}
	b.Done()
	hurry := time.AfterFunc(securingTime, s.cutSecuring)
	defer hurry.Stop()
	var err error
	select {
	case <-s.idle:
	case <-ctx.Done():
		s.cutSecuring()
		s.mu.Lock()
		conns = s.snapshot()
		s.mu.Unlock()
		if len(conns) > 0 {
			err = ctx.Err()
		}
		for _, c := range conns {
			c.Abort(&b, h2.NoError, "shutting down, and out of time")
		}
		b.Done()
	}
	s.serving.Wait()
	s.offences.Close()
	s.refusals.Close()
	return err
}

// securingTime is how long a connection may still be secured that was accepted before
// Shutdown: its caller may be about to send RPCs, or never meant to.
const securingTime = time.Second

// cutSecuring ends those that are being secured.
func (s *Server) cutSecuring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for nc := range s.securing {
		_ = nc.Close()
	}
}

// endIfIdle tells Shutdown when there is nothing left to wait for. s.mu is held.
func (s *Server) endIfIdle() {
	if !s.settled || len(s.conns)+len(s.securing) > 0 {
		return
	}
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// snapshot returns the connections. s.mu is held.
func (s *Server) snapshot() []*h2.Conn {
	conns := make([]*h2.Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// handler is a Server as its connections see it.
type handler Server

// NewStream implements h2.Handler.
func (h *handler) NewStream(c *h2.Conn) *h2.Stream { return h.opts.NewStream(c) }

// OnConnSlots implements h2.Handler.
func (h *handler) OnConnSlots(*h2.Batch, *h2.Conn) {}

// OnConnDraining implements h2.Handler.
func (h *handler) OnConnDraining(*h2.Batch, *h2.Conn) {}

// OnConnClosed implements h2.Handler.
func (h *handler) OnConnClosed(_ *h2.Batch, c *h2.Conn, err error) {
	h.opts.Open.Add(-1)
	if now := time.Now(); !isRefusal(err) {
		h.credits.charge(c.RemoteAddr(), now, c.Spent(now))
	}
	if offends(err) {
		h.offences.Note("peer", c.RemoteAddr().String(), "err", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
	(*Server)(h).endIfIdle()
}

// offends says whether a connection ended for an error of the caller's, or for one
// of ours, and not because it was shut down or refused.
func offends(err error) bool {
	var protocol *h2.ConnError
	if errors.As(err, &protocol) {
		return !protocol.Remote && protocol.Code != h2.NoError && !isRefusal(err)
	}
	return errors.Is(err, h2.ErrHTTP1)
}

// isRefusal says whether a connection was not taken because there were too many.
func isRefusal(err error) bool {
	var protocol *h2.ConnError
	return errors.As(err, &protocol) && !protocol.Remote && protocol.Reason == errTooMany.Error()
}
