package consulmesh

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// app is a service's process: it answers RPCs and says who it is, and it has
// health and reflection. It answers also while its health says that it should
// not be asked, as a real one would.
type app struct {
	testpb.UnimplementedTestServiceServer

	name    string
	address string
	health  *health.Server
	server  *grpc.Server
	served  chan struct{}

	calls atomic.Int64
	last  atomic.Int64 // when it was called last, in Unix nanoseconds
}

func (a *app) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	a.calls.Add(1)
	a.last.Store(time.Now().UnixNano())

	return &testpb.SimpleResponse{Username: a.name}, nil
}

// What an app answers, apart from health and reflection.
const (
	testService      = "grpc.testing.TestService"
	benchmarkService = "grpc.testing.BenchmarkService"
)

// mill is an app that answers the BenchmarkService instead.
type mill struct {
	testpb.UnimplementedBenchmarkServiceServer

	app *app
}

func (m mill) UnaryCall(ctx context.Context, request *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return m.app.UnaryCall(ctx, request)
}

// startApp starts an app at an address, at any where that is empty.
func startApp(t testing.TB, name, address, answers string) *app {
	t.Helper()

	if address == "" {
		address = harness.FreeAddress(t)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}

	a := &app{name: name, address: address, health: health.NewServer(), server: grpc.NewServer(), served: make(chan struct{})}
	switch answers {
	case testService:
		testpb.RegisterTestServiceServer(a.server, a)
	case benchmarkService:
		testpb.RegisterBenchmarkServiceServer(a.server, mill{app: a})
	}
	healthpb.RegisterHealthServer(a.server, a.health)
	reflection.Register(a.server)
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(func() {
		a.server.Stop()
		<-a.served
	})

	return a
}

// stop ends the app as a service manager does.
func (a *app) stop() {
	a.server.GracefulStop()
	<-a.served
}

// serving says whether the app is well.
func (a *app) serving(well bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if well {
		status = healthpb.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus("", status)
}
