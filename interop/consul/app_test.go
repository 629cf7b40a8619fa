package consul

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-proxy/pillion/registry/consul"
)

// app is a gRPC server that answers health checks.
type app struct {
	health *gatedHealth
	port   int
	server *grpc.Server
}

func startApp(t *testing.T) *app {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{health: &gatedHealth{Server: health.NewServer()}, port: listener.Addr().(*net.TCPAddr).Port, server: grpc.NewServer()}
	healthpb.RegisterHealthServer(a.server, a.health)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(func() { a.server.Stop(); <-done })

	return a
}

func (a *app) address() string { return fmt.Sprintf("127.0.0.1:%d", a.port) }

// gatedHealth answers health checks when it may.
type gatedHealth struct {
	*health.Server

	mu   sync.Mutex
	gate chan struct{} // nil: it may
}

func (g *gatedHealth) Check(ctx context.Context, request *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	g.mu.Lock()
	gate := g.gate
	g.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}

	return g.Server.Check(ctx, request)
}

// hold keeps health checks waiting until release is called.
func (a *app) hold() (release func()) {
	gate := make(chan struct{})
	a.health.mu.Lock()
	defer a.health.mu.Unlock()
	a.health.gate = gate

	return func() {
		a.health.mu.Lock()
		defer a.health.mu.Unlock()
		a.health.gate = nil
		close(gate)
	}
}

// serving says what the app answers to health checks from now on.
func (a *app) serving(yes bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus("", status)
}

// registration is the app's, with quick checks.
func (a *app) registration(change ...func(*consul.Registration)) consul.Registration {
	r := consul.Registration{
		Name: "greeter", Address: a.address(), Meta: map[string]string{"version": "v1"}, Tags: []string{"blue"}, Passing: 3,
		Check: &consul.Check{Interval: 200 * time.Millisecond, Timeout: time.Second, DeregisterAfter: time.Minute},
	}
	for _, c := range change {
		c(&r)
	}

	return r
}

// beside puts an inbound beside an app: whatever accepts connections.
func beside(address string) func(*consul.Registration) {
	return func(r *consul.Registration) { r.Sidecar = &consul.Sidecar{Address: address} }
}

func register(t *testing.T, source *consul.Source, registration consul.Registration) *consul.Registrar {
	t.Helper()

	registrar, err := source.Register(registration)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registrar.Close(context.Background()) })

	return registrar
}

func await(t *testing.T, registrar *consul.Registrar) {
	t.Helper()
	select {
	case <-registrar.Registered():
	case <-time.After(patience):
		t.Fatalf("not registered: %+v", registrar.Status())
	}
}

// passing is when Consul first says that so many instances of a service pass.
func passing(t *testing.T, agent *Agent, service string, wanted int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d instances of %s pass", wanted, service), func() bool {
		entries, _, err := agent.Client.Health().Service(service, "", true, nil)

		return err == nil && len(entries) == wanted
	})
}

func quick(t *testing.T, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, took)
	if took > soon {
		t.Errorf("%s took %v", what, took)
	}
}
