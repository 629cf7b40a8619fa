package downstream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

// gate is a Secure that the test opens for one connection after the other.
type gate struct{ results chan error }

func (g *gate) secure(nc net.Conn) (net.Conn, error) {
	if err, given := <-g.results; given && err != nil {
		return nil, err
	}
	return secured{nc}, nil
}

type secured struct{ net.Conn }

func newSecureRig(t *testing.T, maxConns int) (*rig, *gate) {
	g := &gate{results: make(chan error)}
	r := newRig(t, maxConns)
	r.s.opts.Secure = g.secure
	r.s.opts.Silent = func(err error) bool { return errors.Is(err, io.EOF) }
	return r, g
}

// connect connects a caller who says nothing yet.
func (r *rig) connect() (here net.Conn) {
	here, there := net.Pipe()
	r.listener.conns <- there
	synctest.Wait()
	return here
}

// closedByPeer says whether the other end is closed.
func closedByPeer(nc net.Conn) bool {
	_ = nc.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := nc.Read(make([]byte, 1))
	return err == io.EOF || err == io.ErrClosedPipe
}

// What was accepted is served as what Secure makes of it, and whoever wants to know is
// told when that begins and ends.
func TestConnectionsAreSecured(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, g := newSecureRig(t, 0)
		var opened, closed atomic.Int32
		r.s.opts.Opened = func(c *h2.Conn, nc net.Conn) func() {
			if _, is := nc.(secured); !is {
				t.Errorf("Opened is told of a %T", nc)
			}
			c.Data = "mine"
			opened.Add(1)
			return func() { closed.Add(1) }
		}
		here := r.connect()
		if n := r.open.Load(); n != 0 || opened.Load() != 0 || len(r.s.Conns()) != 0 {
			t.Errorf("%d connections are open that are not secured", n)
		}
		g.results <- nil
		p := scriptpeer.Client(t, here)
		p.Want()
		if n := r.open.Load(); n != 1 || opened.Load() != 1 || closed.Load() != 0 {
			t.Errorf("%d connections are open, %d opened, %d closed", n, opened.Load(), closed.Load())
		}
		if conns := r.s.Conns(); len(conns) != 1 || conns[0].Data != "mine" {
			t.Errorf("the connections are %v", conns)
		}
		p.Close()
		synctest.Wait()
		if n := r.open.Load(); n != 0 || closed.Load() != 1 {
			t.Errorf("%d connections are open, %d closed", n, closed.Load())
		}
	})
}

// Who is not secured is closed, and the log says why, unless there is nothing to say.
func TestWhoIsNotSecuredIsClosed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, g := newSecureRig(t, 0)
		log := r.listen()
		for _, err := range []error{errors.New("no certificate"), io.EOF} {
			here := r.connect()
			g.results <- err
			synctest.Wait()
			if !closedByPeer(here) {
				t.Error("the connection is open")
			}
		}
		if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], `err="no certificate"`) {
			t.Errorf("the log says %q", lines)
		}
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		if r.s.held != 0 || len(r.s.securing) != 0 {
			t.Errorf("%d sockets are held, %d being secured", r.s.held, len(r.s.securing))
		}
	})
}

// Those that are being secured hold sockets, and are bounded with the others; who is
// one too many once he is secured is told so.
func TestThoseBeingSecuredAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, g := newSecureRig(t, 1)
		var mine []net.Conn
		for range Sockets(1) {
			mine = append(mine, r.connect())
		}
		if more := r.connect(); !closedByPeer(more) {
			t.Error("there is no bound")
		}
		g.results <- nil
		g.results <- nil
		synctest.Wait()
		if n := r.open.Load(); n < 1 || n > 2 {
			t.Errorf("%d connections are open", n)
		}
		for _, nc := range mine {
			_ = nc.Close()
		}
		close(g.results)
	})
}

// A caller that is accepted and about to be secured when Shutdown begins is heard, and
// told as the others are.
func TestShutdownWaitsForThoseBeingSecured(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, g := newSecureRig(t, 0)
		here := r.connect()
		done := make(chan error)
		go func() { done <- r.shutdown(time.Minute) }()
		time.Sleep(securingTime / 2)
		g.results <- nil
		p := scriptpeer.Client(t, here)
		p.Want("GOAWAY 2147483647 NO_ERROR graceful shutdown", "GOAWAY 0 NO_ERROR graceful shutdown")
		if err := <-done; err != nil {
			t.Errorf("Shutdown ended with %v", err)
		}
	})
}

// Who never meant to say anything does not hold Shutdown up.
func TestShutdownDoesNotWaitForTheSilent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.s.opts.Secure = func(nc net.Conn) (net.Conn, error) {
			_, err := nc.Read(make([]byte, 1))
			return nil, err
		}
		r.connect()
		began := time.Now()
		if err := r.shutdown(time.Hour); err != nil || time.Since(began) != securingTime {
			t.Errorf("Shutdown took %v and ended with %v", time.Since(began), err)
		}
	})
}

// Who is being secured when Shutdown is out of time is cut off as the others are.
func TestShutdownCutsOffWhoComesLate(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, g := newSecureRig(t, 0)
		here := r.connect()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		done := make(chan error)
		go func() { done <- r.s.Shutdown(ctx) }()
		synctest.Wait()
		if !closedByPeer(here) {
			t.Error("the caller is not cut off")
		}
		g.results <- nil
		<-done
		if n := r.open.Load(); n != 0 || time.Since(began) >= securingTime {
			t.Errorf("%d connections are open after %v", n, time.Since(began))
		}
	})
}
