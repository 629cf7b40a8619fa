package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// Options say between whom a proxy stands. Addresses are host:port or
// unix:///path.
type Options struct {
	// Listen is where clients connect.
	Listen string
	// Target is the server.
	Target string
	// Seed decides what is random. Each connection draws from a source of its own,
	// so that what happens to it does not depend on the others.
	Seed uint64
	// Raw says that the connections may not speak HTTP/2; they are then not cut by
	// frames.
	Raw bool
}

// Proxy stands between clients and one server.
type Proxy struct {
	options Options
	stop    context.CancelFunc
	ctx     context.Context
	running sync.WaitGroup

	accepted, cuts atomic.Int64

	mu       sync.Mutex
	faults   Faults
	cutsLeft int           // of faults.Cut, where it has a bound
	changed  chan struct{} // closed and renewed with all that lanes wait for
	watched  bool          // somebody waits for bytes to be delivered
	listener net.Listener  // nil while refusing
	conns    []*Conn       // that are open, in the order in which they came
	mute     []net.Conn
	closed   bool
}

// New starts a proxy. Close ends it.
func New(o Options) (*Proxy, error) {
	p := &Proxy{options: o, changed: make(chan struct{})}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if err := p.listen(); err != nil {
		p.stop()

		return nil, err
	}

	return p, nil
}

// Start starts a proxy in front of a server, on a port of its own and with seed 1.
// It ends with the test.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()

	p, err := New(Options{Listen: harness.FreeAddress(t), Target: target, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)

	return p
}

// Address is where the proxy listens, as its [Options] say.
func (p *Proxy) Address() string { return p.options.Listen }

// Set switches faults, for open connections too. It returns when new connections
// meet what is asked for; an error says that the proxy cannot listen again.
func (p *Proxy) Set(f Faults) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()

		return net.ErrClosed
	}
	if f.Cut != nil && f.Cut != p.faults.Cut {
		p.cutsLeft = f.Cut.Connections
	}
	p.faults = f
	p.tell()

	if f.Accept != Mute {
		for _, c := range p.mute {
			reset(c)
		}
		p.mute = nil
	}
	if f.Accept == Refuse && p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	again := f.Accept != Refuse && p.listener == nil
	p.mu.Unlock()

	if again {
		return p.listen()
	}

	return nil
}

// MustSet is Set for tests.
func (p *Proxy) MustSet(t testing.TB, f Faults) {
	t.Helper()

	if err := p.Set(f); err != nil {
		t.Fatalf("fault proxy: %v", err)
	}
}

// Clear switches all faults off. Connections that were cut stay so.
func (p *Proxy) Clear(t testing.TB) {
	t.Helper()

	p.MustSet(t, Faults{})
}

// tell wakes all who wait. p.mu is held.
func (p *Proxy) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// state is the present faults, and what is closed when they change.
func (p *Proxy) state() (Faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.faults, p.changed
}

func (p *Proxy) listen() error {
	network, address := split(p.options.Listen)
	listener, err := (&net.ListenConfig{}).Listen(p.ctx, network, address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", p.options.Listen, err)
	}

	p.mu.Lock()
	defer p.mu.Unlock()

	if p.closed || p.listener != nil {
		_ = listener.Close()

		return nil
	}
	p.listener = listener
	p.running.Go(func() { p.serve(listener) })

	return nil
}

func (p *Proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, say.
			select {
			case <-time.After(10 * time.Millisecond):
			case <-p.ctx.Done():
			}

			continue
		}
		index := p.accepted.Add(1)

		p.mu.Lock()
		accept := p.faults.Accept
		switch {
		case p.closed, accept == Reset, accept == Refuse:
			reset(client)
		case accept == Mute:
			p.mute = append(p.mute, client)
		default:
			p.running.Go(func() { p.connect(client, index, accept == Drop) })
		}
		p.mu.Unlock()
	}
}

// connect carries one connection to its end.
func (p *Proxy) connect(client net.Conn, index int64, drop bool) {
	network, address := split(p.options.Target)
	server, err := (&net.Dialer{}).DialContext(p.ctx, network, address)
	if err != nil {
		// As near as a proxy comes to its target's refusal.
		reset(client)

		return
	}
	if drop {
		_ = client.Close()
		_ = server.Close()

		return
	}

	c := newConn(p, client, server, index)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.end(Abort)

		return
	}
	p.conns = append(p.conns, c)
	slices.SortFunc(p.conns, func(a, b *Conn) int { return cmp.Compare(a.Index, b.Index) })
	p.tell()
	p.mu.Unlock()

	c.run()

	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(o *Conn) bool { return o == c })
	p.tell()
}

// Conns are the connections that are open, the oldest first.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()

	return slices.Clone(p.conns)
}

// AwaitConns waits until at least so many connections are open, and returns them,
// the oldest first. An error says that ctx ended before.
func (p *Proxy) AwaitConns(ctx context.Context, count int) ([]*Conn, error) {
	for {
		p.mu.Lock()
		conns, changed := slices.Clone(p.conns), p.changed
		p.mu.Unlock()
		if len(conns) >= count {
			return conns, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d connections are open, want %d: %w", len(conns), count, ctx.Err())
		}
	}
}

// Accepted is how many connections have come, whatever became of them.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Cuts is how many connections [Faults.Cut] has cut.
func (p *Proxy) Cuts() int { return int(p.cuts.Load()) }

// EndAll ends all open connections now. [HalfClose] half-closes both directions.
func (p *Proxy) EndAll(how Ending) {
	for _, c := range p.Conns() {
		c.End(how)
	}
}

// mayCut says whether one more connection may be cut by a cut, and counts it.
func (p *Proxy) mayCut(cut *Cut) bool {
	p.mu.Lock()
	defer p.mu.Unlock()

	if cut != p.faults.Cut {
		return false
	}
	if cut.Connections > 0 {
		if p.cutsLeft == 0 {
			return false
		}
		p.cutsLeft--
	}
	p.cuts.Add(1)

	return true
}

// Close resets all connections and returns when nothing of the proxy is left.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for _, c := range p.mute {
		reset(c)
	}
	p.mute = nil
	conns := slices.Clone(p.conns)
	p.mu.Unlock()

	p.stop()
	for _, c := range conns {
		c.end(Abort)
	}
	p.running.Wait()
}

// split is the network and the address that package net understands.
func split(address string) (string, string) {
	if path, is := strings.CutPrefix(address, "unix://"); is {
		return "unix", path
	}

	return "tcp", address
}

// reset closes a connection so that the peer sees an RST.
func reset(c net.Conn) {
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
