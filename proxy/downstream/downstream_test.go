package downstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

// rig is a server whose listener is in memory, on virtual time.
type rig struct {
	t        *testing.T
	s        *Server
	open     atomic.Int64
	listener *listener
	served   chan error
}

// listener hands over the connections that the test makes, and the errors.
type listener struct {
	conns  chan any
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case c := <-l.conns:
		if err, bad := c.(error); bad {
			return nil, err
		}
		return c.(net.Conn), nil
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func newRig(t *testing.T, maxConns int) *rig {
	cfg := h2.Config{}.WithDefaults()
	r := &rig{
		t: t, served: make(chan error, 1),
		listener: &listener{conns: make(chan any), closed: make(chan struct{})},
	}
	r.s = New(Options{
		HTTP2: &cfg, MaxConns: maxConns, Open: &r.open, Logger: slog.New(slog.DiscardHandler),
		NewStream: func(*h2.Conn) *h2.Stream {
			o := new(silent)
			o.s.Init(o)
			return &o.s
		},
	})
	go func() { r.served <- r.s.Serve(r.listener) }()
	t.Cleanup(func() {
		_ = r.shutdown(time.Second)
		if n := r.open.Load(); n != 0 {
			t.Errorf("%d connections are counted as open", n)
		}
	})
	return r
}

func (r *rig) shutdown(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return r.s.Shutdown(ctx)
}

// dial connects a caller.
func (r *rig) dial() *scriptpeer.Peer {
	here, there := net.Pipe()
	r.listener.conns <- there
	return scriptpeer.Client(r.t, here)
}

// silent answers nothing.
type silent struct {
	s h2.Stream
}

func (*silent) OnHeaders(*h2.Batch, *h2.Stream, uint32, *h2.Head, bool) {}
func (*silent) OnData(*h2.Batch, *h2.Stream, uint32, []byte, bool)      {}
func (*silent) OnReset(*h2.Batch, *h2.Stream, uint32, h2.Reset)         {}
func (*silent) OnTaken(*h2.Batch, *h2.Stream, uint32, int)              {}
func (*silent) OnClosed(*h2.Batch, *h2.Stream, uint32)                  {}

func simulated(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

func TestTooManyConnectionsAreToldSo(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 2)
		one, two := r.dial(), r.dial()
		three := r.dial()
		three.Want("GOAWAY 0 ENHANCE_YOUR_CALM too many connections to this sidecar")
		if n := r.open.Load(); n != 2 {
			t.Errorf("%d connections are counted as open, want 2", n)
		}
		one.Request(1, "/a.B/C", false)
		one.Want()
		two.Want()
		time.Sleep(2 * time.Second)
		if !three.Closed() || one.Closed() || two.Closed() {
			t.Error("the wrong connections are closed")
		}
	})
}

// Those that are being told do not keep others out.
func TestRefusedConnectionsDoNotCount(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 1)
		one := r.dial()
		for range 10 {
			r.dial().Want("GOAWAY 0 ENHANCE_YOUR_CALM*")
		}
		one.Close()
		synctest.Wait()
		r.dial().Want()
	})
}

func TestAcceptErrorsPass(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		start := time.Now()
		for range 12 {
			r.listener.conns <- errors.New("too many open files")
		}
		r.dial().Want()
		if took := time.Since(start); took < 4*time.Second || took > 8*time.Second {
			t.Errorf("12 errors took %v, want a pause that grows to 1 s", took)
		}
	})
}

func TestShutdownDoesNotWaitForAPause(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		for range 12 {
			r.listener.conns <- errors.New("too many open files")
		}
		synctest.Wait()
		if err := r.shutdown(time.Hour); err != nil {
			t.Error(err)
		}
		start := time.Now()
		if err := <-r.served; err != nil || time.Since(start) > 0 {
			t.Errorf("Serve ended after %v with %v", time.Since(start), err)
		}
	})
}

// Callers are told twice; what they have sent between goes on.
func TestShutdown(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		busy, idle := r.dial(), r.dial()
		busy.Request(1, "/a.B/C", false)
		busy.Want()
		done := make(chan error)
		go func() { done <- r.shutdown(time.Minute) }()
		busy.Want("GOAWAY 2147483647 NO_ERROR graceful shutdown", "GOAWAY 1 NO_ERROR graceful shutdown")
		idle.Want("GOAWAY 2147483647 NO_ERROR graceful shutdown", "GOAWAY 0 NO_ERROR graceful shutdown")
		if err := <-r.served; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
		time.Sleep(5 * time.Second)
		select {
		case err := <-done:
			t.Fatalf("Shutdown ended with %v while a stream is open", err)
		default:
		}
		busy.Reset(1, http2.ErrCodeCancel)
		if err := <-done; err != nil {
			t.Errorf("Shutdown ended with %v", err)
		}
		if !busy.Closed() || !idle.Closed() {
			t.Error("connections are still open")
		}
	})
}

func TestShutdownRunsOutOfTime(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		busy := r.dial()
		busy.Request(1, "/a.B/C", false)
		busy.Want()
		start := time.Now()
		if err := r.shutdown(10 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown ended with %v", err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		if !busy.Closed() {
			t.Error("the connection is still open")
		}
	})
}

// closing is a listener from which one more connection comes while it is being
// closed: it was in the queue.
type closing struct {
	*listener
	last chan net.Conn
}

func (l closing) Accept() (net.Conn, error) {
	nc, err := l.listener.Accept()
	if err != nil {
		select {
		case last := <-l.last:
			return last, nil
		default:
		}
	}
	return nc, err
}

// A connection that was accepted as Shutdown begins is ended as the others are,
// not cut off: its caller may have sent an RPC already.
func TestAConnectionDuringShutdown(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		here, there := net.Pipe()
		l := closing{&listener{closed: make(chan struct{})}, make(chan net.Conn, 1)}
		l.last <- there
		go func() { _ = r.s.Serve(l) }()
		synctest.Wait()
		done := make(chan error)
		go func() { done <- r.shutdown(time.Minute) }()
		late := scriptpeer.Client(t, here)
		late.Want("GOAWAY 2147483647 NO_ERROR graceful shutdown", "GOAWAY 0 NO_ERROR graceful shutdown")
		if err := <-done; err != nil {
			t.Errorf("Shutdown ended with %v", err)
		}
	})
}

func TestServeAfterShutdown(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		if err := r.shutdown(time.Second); err != nil {
			t.Fatal(err)
		}
		l := &listener{closed: make(chan struct{})}
		if err := r.s.Serve(l); err != nil {
			t.Error(err)
		}
		<-l.closed
		if err := r.shutdown(time.Second); err != nil {
			t.Errorf("the second Shutdown: %v", err)
		}
	})
}
