package canary

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
)

// app is a version of the service, which can be made worse while it runs.
type app struct {
	testpb.UnimplementedTestServiceServer

	version string
	server  *grpc.Server
	port    int
	// failing is how many of 1,000 RPCs fail; delay is what each takes.
	failing atomic.Int64
	delay   atomic.Int64
	// calls and failed count RPCs; last is when one came, in Unix nanoseconds.
	calls, failed, last atomic.Int64
}

// startApp starts an instance, and registers it as one without a sidecar.
func startApp(t *testing.T, agent *consul.Agent, service, version string) *app {
	t.Helper()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{version: version, server: grpc.NewServer(), port: l.Addr().(*net.TCPAddr).Port}
	testpb.RegisterTestServiceServer(a.server, a)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = a.server.Serve(l)
	}()
	t.Cleanup(func() {
		a.server.Stop()
		<-served
	})
	err = agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: service + "-" + strconv.Itoa(a.port), Name: service, Address: "127.0.0.1", Port: a.port,
		Meta: map[string]string{"version": version},
	})
	if err != nil {
		t.Fatal(err)
	}

	return a
}

// UnaryCall says which version answers, or fails.
func (a *app) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	a.calls.Add(1)
	a.last.Store(time.Now().UnixNano())
	if d := a.delay.Load(); d > 0 {
		select {
		case <-time.After(time.Duration(d)):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if rand.Int64N(1000) < a.failing.Load() {
		a.failed.Add(1)

		return nil, status.Error(codes.Internal, injected+a.version)
	}

	return &testpb.SimpleResponse{Username: a.version}, nil
}

// injected begins the message of failures that apps make on purpose.
const injected = "on purpose: "
