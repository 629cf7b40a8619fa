package h2

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
)

// caller makes one exchange with an echo through whatever is between: it sends a
// request of size bytes and wants them back.
type caller struct {
	t      testing.TB
	s      Stream
	size   int
	cancel int // reset once that many bytes have come back, -1: never

	mu     sync.Mutex
	gen    uint32
	got    int
	sum    uint32
	status int
	ended  bool
	reset  *Reset
	done   chan struct{}
}

func newCaller(t testing.TB, size, cancel int) *caller {
	x := &caller{t: t, size: size, cancel: cancel, done: make(chan struct{})}
	x.s.Init(x)
	return x
}

// pattern is what is sent at an offset of any exchange.
var pattern = func() []byte {
	p := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}()

func (x *caller) start(b *Batch, c *Conn, chunk int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	gen, err := c.Open(b, &x.s, fields(with(post, "x-size", fmt.Sprint(x.size), "te", "trailers")...), x.size == 0)
	if err != nil {
		return err
	}
	x.gen = gen
	for off := 0; off < x.size; off += chunk {
		p := pattern[off:min(off+chunk, x.size)]
		x.s.SendData(b, p, off+len(p) == x.size)
	}
	return nil
}

func (x *caller) OnHeaders(b *Batch, _ *Stream, _ uint32, h *Head, end bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.Kind == HeadResponse {
		x.status = h.Status
	}
	x.ended = end
}

func (x *caller) OnData(b *Batch, s *Stream, _ uint32, p []byte, end bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got += len(p)
	x.sum = crc32.Update(x.sum, crc32.IEEETable, p)
	x.ended = end
	s.Consume(b, len(p))
	if x.cancel >= 0 && x.got >= x.cancel {
		s.Reset(b, Cancel)
	}
}

func (x *caller) OnReset(_ *Batch, _ *Stream, _ uint32, r Reset) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reset = &r
}
func (x *caller) OnTaken(*Batch, *Stream, uint32, int) {}
func (x *caller) OnClosed(*Batch, *Stream, uint32)     { close(x.done) }

// check waits for the exchange's end and says what is wrong with it.
func (x *caller) check() {
	<-x.done
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cancel >= 0 && !x.ended {
		return
	}
	switch want := crc32.ChecksumIEEE(pattern[:x.size]); {
	case x.reset != nil:
		x.t.Errorf("reset: %+v", *x.reset)
	case x.status != 200 || !x.ended || x.got != x.size || x.sum != want:
		x.t.Errorf("status %d, %d of %d bytes, ended: %v, checksum right: %v", x.status, x.got, x.size, x.ended, x.sum == want)
	}
}

// echoAll is a handler whose streams send back what they get.
type echoAll struct{ answerAll }

type echo struct {
	mu     sync.Mutex
	s      Stream
	gen    uint32
	closed bool
}

func (echoAll) NewStream(*Conn) *Stream {
	e := new(echo)
	e.s.Init(e)
	return &e.s
}

func (e *echo) OnHeaders(b *Batch, s *Stream, gen uint32, h *Head, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gen = gen
	s.SendHeaders(b, fields(":status", "200", "content-type", "application/grpc"), false)
	if end {
		s.SendHeaders(b, fields("grpc-status", "0"), true)
	}
}

func (e *echo) OnData(b *Batch, s *Stream, _ uint32, p []byte, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Consume(b, s.SendData(b, p, false))
	if end {
		s.SendHeaders(b, fields("grpc-status", "0"), true)
	}
}

func (e *echo) OnTaken(b *Batch, s *Stream, _ uint32, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		s.Consume(b, n)
	}
}
func (e *echo) OnReset(*Batch, *Stream, uint32, Reset) {}
func (e *echo) OnClosed(*Batch, *Stream, uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
}

// chain is callers' connections to a proxy, which has one connection to an echo.
type chain struct {
	callers []*Conn
	all     []*Conn
	serving sync.WaitGroup
}

// newChain builds a chain of connections that link makes.
func newChain(t testing.TB, cfg Config, callers int, link func() (client, server Transport)) *chain {
	ch := &chain{}
	start := func(tr Transport, role Role, h Handler) *Conn {
		c := New(tr, role, &cfg, h)
		ch.all = append(ch.all, c)
		ch.serving.Go(c.Serve)
		return c
	}
	client, server := link()
	start(server, Server, echoAll{})
	p := &proxy{t: t, up: start(client, Client, answerAll{})}
	for range callers {
		client, server := link()
		start(server, Server, p)
		ch.callers = append(ch.callers, start(client, Client, answerAll{}))
	}
	return ch
}

// stop ends all connections, callers first, and checks that nothing is left.
func (ch *chain) stop(t testing.TB) {
	for _, c := range slices.Backward(ch.all) {
		do(c.Shutdown)
	}
	ch.serving.Wait()
	for _, c := range ch.all {
		checkEmpty(t, c)
	}
}

// traffic has goroutines make exchanges of all kinds on all connections; one in
// ten has up to large bytes.
func (ch *chain) traffic(t testing.TB, goroutines, exchanges, large int) {
	var all sync.WaitGroup
	for _, c := range ch.callers {
		for g := range goroutines {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 7))
				for range exchanges {
					size, cancel := rng.IntN(200), -1
					if rng.IntN(10) == 0 {
						size = rng.IntN(large)
					}
					if rng.IntN(8) == 0 {
						cancel = rng.IntN(size + 1)
					}
					x := newCaller(t, size, cancel)
					do(func(b *Batch) {
						if err := x.start(b, c, 1+rng.IntN(30000)); err != nil {
							t.Error(err)
							close(x.done)
						}
					})
					x.check()
				}
			})
		}
	}
	all.Wait()
}

func TestChainOverSimulatedNetwork(t *testing.T) {
	for _, test := range []struct{ most, large int }{{0, 300000}, {1000, 100000}, {7, 2000}} {
		t.Run(fmt.Sprintf("reads of %d", test.most), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ch := newChain(t, Config{Budget: NewBudget(1 << 30)}, 2, func() (client, server Transport) {
					a, b := newSim()
					for _, l := range []*link{a.in, b.in} {
						l.room, l.most = 3000, test.most
					}
					return a, b
				})
				ch.traffic(t, 8, 8, test.large)
				synctest.Wait()
				ch.stop(t)
			})
		})
	}
}

// However a connection of a chain ends in the middle of traffic, each exchange
// ends, once, and nothing is left.
func TestChainTornDown(t *testing.T) {
	ends := map[string]func(c *Conn){
		"shutdown": func(c *Conn) { do(c.Shutdown) },
		"abort":    func(c *Conn) { do(func(b *Batch) { c.Abort(b, InternalError, "torn down") }) },
		"close":    func(c *Conn) { c.t.Close() },
		"reset":    func(c *Conn) { c.t.(*simEnd).in.fail(syscall.ECONNRESET) },
		"no write": func(c *Conn) { c.t.(*simEnd).out.fail(syscall.EPIPE) },
	}
	for name, end := range ends {
		for victim := range 6 {
			t.Run(fmt.Sprintf("%s of connection %d", name, victim), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ch := newChain(t, Config{Budget: NewBudget(1 << 30)}, 2, func() (client, server Transport) {
						a, b := newSim()
						a.in.room, b.in.room = 3000, 3000
						return a, b
					})
					echo := ch.all[0].t.(*simEnd).in
					synctest.Wait()
					echo.setHold(true) // or it would be over before anything happens
					var calls []*caller
					for i, c := range slices.Concat(ch.callers, ch.callers, ch.callers, ch.callers) {
						x := newCaller(t, 1000+i*20000, -1)
						calls = append(calls, x)
						do(func(b *Batch) {
							if err := x.start(b, c, 10000); err != nil {
								t.Fatal(err)
							}
						})
					}
					synctest.Wait()
					end(ch.all[victim])
					echo.setHold(false)
					for _, x := range calls {
						<-x.done
						if name != "shutdown" || victim == 0 && x.reset != nil && x.reset.Unprocessed {
							continue
						}
						x.check() // nothing is lost but what an instance that goes away did not take
					}
					ch.stop(t)
				})
			})
		}
	}
}

func TestChainOverPipes(t *testing.T) {
	t.Parallel()
	ch := newChain(t, Config{}, 2, func() (client, server Transport) {
		a, b := net.Pipe()
		return NewTransport(a), NewTransport(b)
	})
	ch.traffic(t, 8, 10, 300000)
	ch.stop(t)
}

func TestChainOverTCP(t *testing.T) {
	t.Parallel()
	ln := listenTCP(t)
	defer ln.Close()
	testChainOver(t, ln)
}

func TestChainOverUnixSockets(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	testChainOver(t, ln)
}

// testChainOver uses sockets with small buffers, so that writes often find no
// room.
func testChainOver(t *testing.T, ln net.Listener) {
	small := func(nc net.Conn) Transport {
		buffers := nc.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		if err := buffers.SetReadBuffer(32 << 10); err != nil {
			t.Fatal(err)
		}
		if err := buffers.SetWriteBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		return &counted{Transport: NewTransport(nc)}
	}
	ch := newChain(t, Config{Budget: NewBudget(1 << 30)}, 3, func() (client, server Transport) {
		a, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return small(a), small(b)
	})
	ch.traffic(t, 10, 10, 300000)
	var short int64
	for _, c := range ch.all {
		short += c.t.(*counted).short.Load()
	}
	if short == 0 {
		t.Error("no socket ever took less than it was given: this test is no test")
	}
	ch.stop(t)
}

// counted counts the writes that found too little room.
type counted struct {
	Transport
	short atomic.Int64
}

func (c *counted) TryWrite(p []byte) (int, bool, error) {
	n, pending, err := c.Transport.TryWrite(p)
	if n < len(p) {
		c.short.Add(1)
	}
	return n, pending, err
}
