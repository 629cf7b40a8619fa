package sidecar

import (
	"context"
	"net"
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
