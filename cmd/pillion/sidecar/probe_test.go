package sidecar

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestProbe(t *testing.T) {
	s := newSidecar(t, &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound: &configv1.Inbound{Listen: "0.0.0.0:0"},
	})
	probe := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		return s.Probe(ctx)
	}
	// The port is open, but nobody serves it.
	if err := probe(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "no answer to a PING") {
		t.Errorf("nobody serves: %v", err)
	}
	go func() { _ = s.inbound.Serve(s.listeners[sideInbound]) }()
	if err := probe(time.Minute); err != nil {
		t.Errorf("it is served: %v", err)
	}
	if err := s.inbound.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := probe(time.Minute); err == nil {
		t.Error("the port is closed, and that counts as progress")
	}
	s.leaving.Store(true)
	if err := probe(time.Minute); err != nil {
		t.Errorf("it drains: %v", err)
	}
}

// A sidecar that has as many connections as it may have turns the probe away like
// anybody. To be ended by the watchdog for that would cut off all those that it has.
func TestProbeOfAFullSidecar(t *testing.T) {
	one := uint32(1)
	s := newSidecar(t, &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound: &configv1.Inbound{Listen: anyPort},
		Http2:   &configv1.HTTP2{MaxConnections: &one},
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.inbound.Serve(s.listeners[sideInbound])
	}()
	for held := range 100 { // past each bound that there may be
		c, err := net.Dial("tcp", s.Address(sideInbound))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := s.Probe(ctx); err != nil {
			t.Fatalf("beside %d connections: %v", held+1, err)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_ = s.inbound.Shutdown(ctx)
	<-served
}

// flood makes many connections, which the sidecar has yet to take in.
func flood(t *testing.T, network, address string, count int) {
	t.Helper()
	for range count {
		c, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

// A sidecar that holds back connections, as it is told to, answers the probe late: it
// is none that stands still.
func TestProbeDuringAFlood(t *testing.T) {
	rate := uint32(20)
	s := newSidecar(t, &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound: &configv1.Inbound{Listen: anyPort},
		Http2:   &configv1.HTTP2{MaxConnectionRate: &rate},
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.inbound.Serve(s.listeners[sideInbound])
	}()
	flood(t, "tcp", s.Address(sideInbound), 200)
	for range 3 {
		const timeout = 300 * time.Millisecond
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		if err := s.Probe(ctx); err != nil {
			t.Errorf("connections wait: %v", err)
		}
		if took := time.Since(began); took < timeout {
			t.Errorf("it was answered after %v: there was no flood", took)
		}
		cancel()
	}
	if err := s.inbound.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-served
}

// Where a Unix socket's queue is full the probe is refused at once. Whether the side
// moves shows only in its time.
func TestProbeOfAFullQueue(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for full := false; !full; {
		c, err := net.Dial("unix", path)
		if full = queueFull(err); err != nil && !full {
			t.Fatal(err)
		} else if err == nil {
			defer func() { _ = c.Close() }()
		}
	}
	s := &Sidecar{listeners: map[string]*socket{sideInbound: {Listener: l}}}
	for moves, want := range map[string]bool{"it takes none in": false, "it takes some in": true} {
		const timeout = 100 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		began := time.Now()
		err := s.probe(ctx, sideInbound, func() uint64 {
			if want {
				return uint64(time.Since(began) / (timeout / 2))
			}
			return 0
		})
		cancel()
		if (err == nil) != want {
			t.Errorf("%s: %v", moves, err)
		}
		if took := time.Since(began); took < timeout {
			t.Errorf("%s: that was decided after %v", moves, took)
		}
	}
}

// A machine that is out of something says nothing about the data plane.
func TestExhaustionIsNoStandstill(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&net.OpError{Op: "dial", Err: syscall.EMFILE}:       true,
		&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}: false,
		context.DeadlineExceeded:                            false,
	} {
		if got := exhausted(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
