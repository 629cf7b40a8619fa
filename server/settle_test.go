package server

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// last is a listener from which one connection comes as it is closed: it was in the
// queue.
type last struct {
	closed chan struct{}
	conns  chan net.Conn
}

func (l *last) Accept() (net.Conn, error) {
	<-l.closed
	select {
	case nc := <-l.conns:
		return nc, nil
	default:
		return nil, net.ErrClosed
	}
}

func (l *last) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *last) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// A client that was let in as Shutdown began gets its answer, though its request
// comes later than that.
func TestShutdownAnswersWhoIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		l := &last{closed: make(chan struct{}), conns: make(chan net.Conn, 1)}
		l.conns <- there
		served := make(chan error)
		go func() { served <- s.Serve(context.Background(), l) }()
		synctest.Wait()
		stopped := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			stopped <- s.Shutdown(ctx)
		}()
		synctest.Wait()
		if _, err := here.Write([]byte("GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(here), nil)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || !response.Close {
			t.Errorf("%s, and the connection closes: %v", response.Status, response.Close)
		}
		if err := <-stopped; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// Who never says anything is not waited for longer than Shutdown may take.
func TestShutdownDoesNotWaitForSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		defer func() { _ = here.Close() }()
		l := &last{closed: make(chan struct{}), conns: make(chan net.Conn, 1)}
		l.conns <- there
		served := make(chan error)
		go func() { served <- s.Serve(context.Background(), l) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		_ = s.Shutdown(ctx)
		if took := time.Since(start); took > time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
