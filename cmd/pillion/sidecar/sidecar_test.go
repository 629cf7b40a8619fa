package sidecar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// hung is a registry that never answers.
type hung struct{ until chan struct{} }

func (h hung) Close(context.Context) error { <-h.until; return nil }
func (h hung) Release()                    {}

// quick is a registry that answers at once.
type quick struct{ err error }

func (q quick) Close(context.Context) error { return q.err }
func (q quick) Release()                    {}

func TestLeavingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for drain, want := range map[time.Duration]time.Duration{
			0:                500 * time.Millisecond,
			time.Second:      500 * time.Millisecond,
			4 * time.Second:  time.Second,
			30 * time.Second: 2 * time.Second,
		} {
			start, h := time.Now(), hung{make(chan struct{})}
			err := leave(h, leaveTimeout(drain))
			if took := time.Since(start); took != want {
				t.Errorf("a drain of %v: leaving took %v, want %v", drain, took, want)
			}
			if err == nil || strings.Contains(err.Error(), "trying again") {
				t.Errorf("a drain of %v: got %v", drain, err)
			}
			close(h.until)
		}
		refused := errors.New("refused")
		start := time.Now()
		if err := leave(quick{refused}, time.Second); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		if err := leave(quick{}, time.Second); err != nil || time.Since(start) != 0 {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// A registry that hangs takes no time from those who call the app.
func TestHungRegistryLeavesTimeToDrain(t *testing.T) {
	app, l := grpc.NewServer(), listenAny(t)
	watched := make(chan struct{})
	healthpb.RegisterHealthServer(app, watchedHealth{watched: watched})
	go func() { _ = app.Serve(l) }()
	t.Cleanup(app.Stop)
	s := newSidecar(t, &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: l.Addr().String()},
		Inbound: &configv1.Inbound{Listen: anyPort},
	})
	const timeout = 20 * time.Second
	s.cfg.Drain.Timeout = durationpb.New(timeout)
	go func() { _ = s.inbound.Serve(s.listeners[sideInbound]) }()
	caller, err := grpc.NewClient(s.Address(sideInbound), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caller.Close() })
	rpc, err := healthpb.NewHealthClient(caller).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.Recv(); err != nil {
		t.Fatal(err)
	}

	h := hung{make(chan struct{})}
	t.Cleanup(func() { close(h.until) })
	drained, start := make(chan error), time.Now()
	s.registration = h
	go func() { drained <- s.drain() }()
	// The RPC goes on until the caller is told to go, and ends well.
	for caller.GetState() == connectivity.Ready && time.Since(start) < timeout {
		caller.WaitForStateChange(t.Context(), connectivity.Ready)
	}
	told := time.Since(start)
	close(watched)
	if _, err := rpc.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the RPC ended with %v", err)
	}
	err = <-drained
	if err == nil || strings.Contains(err.Error(), "cut off") || !strings.HasPrefix(err.Error(), "draining: leaving the registry: no answer within 2s") {
		t.Errorf("got %v", err)
	}
	if told < 2*time.Second || told > timeout/2 {
		t.Errorf("the caller was told after %v", told)
	}
}

// watchedHealth answers once, and ends well when it is told to.
type watchedHealth struct {
	healthpb.UnimplementedHealthServer
	watched chan struct{}
}

func (w watchedHealth) Watch(_ *healthpb.HealthCheckRequest, s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if err := s.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	<-w.watched
	return nil
}

// newSidecar makes a sidecar on ports that the system chooses.
func newSidecar(t *testing.T, cfg *configv1.Bootstrap) *Sidecar {
	t.Helper()
	t.Setenv("CONSUL_HTTP_ADDR", "")
	cfg = configyaml.Effective(cfg)
	cfg.Drain.Timeout = durationpb.New(100 * time.Millisecond)
	s, err := New(cfg, Options{Logger: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const anyPort = "127.0.0.1:0"

func TestAppThatCannotBeRegistered(t *testing.T) {
	s := newSidecar(t, &configv1.Bootstrap{
		Service:  &configv1.Service{Name: "a/b", Address: "127.0.0.1:1"},
		Inbound:  &configv1.Inbound{Listen: anyPort},
		Admin:    &configv1.Admin{Listen: anyPort},
		Registry: &configv1.Registry{Source: &configv1.Registry_Consul{Consul: &configv1.ConsulRegistry{Address: "127.0.0.1:1"}}},
	})
	err := s.Run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), `the app cannot be registered: consul: service name "a/b"`) {
		t.Errorf("got %v", err)
	}
	for _, side := range []string{sideInbound, sideAdmin} {
		if c, err := net.Dial("tcp", s.Address(side)); err == nil {
			_ = c.Close()
			t.Errorf("%s listens still", side)
		}
	}
}

// A side that fails ends the sidecar, and all that it does in the background.
func TestSideThatFails(t *testing.T) {
	s := newSidecar(t, &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound: &configv1.Inbound{Listen: anyPort},
		Admin:   &configv1.Admin{Listen: anyPort},
	})
	_ = s.listeners[sideAdmin].Close()
	ended := make(chan error)
	go func() { ended <- s.Run(t.Context()) }()
	select {
	case err := <-ended:
		if err == nil || !strings.HasPrefix(err.Error(), "admin: ") {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
}

// goleak tells what else stays.
func TestNothingStaysOpenAfterAnError(t *testing.T) {
	folder, err := os.MkdirTemp("", "pillion") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	socket := filepath.Join(folder, "s")
	_, err = New(configyaml.Effective(&configv1.Bootstrap{
		Service:  &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound:  &configv1.Inbound{Listen: "unix://" + socket},
		Outbound: &configv1.Outbound{Listen: anyPort, DefaultService: "b"},
		Registry: &configv1.Registry{Source: &configv1.Registry_Static{Static: &configv1.StaticRegistry{
			Upstreams: map[string]*configv1.StaticUpstream{"b": {Addresses: []string{"127.0.0.1:1"}}},
		}}},
		Admin:     &configv1.Admin{Listen: anyPort},
		AccessLog: &configv1.AccessLog{Path: filepath.Join(folder, "missing", "log")},
	}), Options{Logger: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar)})
	if err == nil || !strings.HasPrefix(err.Error(), "access log: ") {
		t.Fatalf("got %v", err)
	}
	if c, err := net.Dial("unix", socket); err == nil {
		_ = c.Close()
		t.Error("inbound listens still")
	}
}

func listenAny(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
