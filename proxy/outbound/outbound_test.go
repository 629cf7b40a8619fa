package outbound_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// app is a service's app that names itself in its answers.
type app struct {
	grpc_testing.UnimplementedTestServiceServer
	name    string
	entered chan struct{}
	hold    chan struct{} // a call waits for it, unless nil
}

func (a *app) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("echo")) > 0 {
		_ = grpc.SetTrailer(ctx, metadata.MD{"echo": md.Get("echo"), "echo-bin": md.Get("echo-bin")})
	}
	if a.hold != nil {
		a.entered <- struct{}{}
		<-a.hold
	}
	return &grpc_testing.SimpleResponse{ServerId: a.name, Payload: r.GetPayload()}, nil
}

func (a *app) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve starts an app and returns its address and what stops it.
func serve(t *testing.T, a *app) (address string, stop func()) {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, a)
	reflection.Register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String(), s.Stop
}

func config() *h2.Config {
	cfg := h2.Config{Budget: h2.NewBudget(64 << 20)}.WithDefaults()
	return &cfg
}

// sidecar starts the inbound side before an app.
func sidecar(t *testing.T, appAddress string) (string, *inbound.Proxy) {
	t.Helper()
	cfg := config()
	p := inbound.New(inbound.Options{
		Service: "greeter", Address: appAddress, HTTP2: cfg, Upstream: upstream.Options{HTTP2: cfg},
		Metrics: telemetry.NewMetrics(telemetry.Inbound), Counters: new(telemetry.Counters),
	})
	l := listen(t)
	go func() { _ = p.Serve(l) }()
	t.Cleanup(func() { shutdown(t, p.Shutdown) })
	return l.Addr().String(), p
}

func shutdown(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// mesh starts the outbound side over a registry, and returns a client of it.
func mesh(t *testing.T, source registry.Source) (*grpc.ClientConn, *outbound.Proxy, *telemetry.Counters) {
	t.Helper()
	counters := new(telemetry.Counters)
	cc, p := meshOf(t, outbound.Options{
		Source: source, Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: counters,
	})
	return cc, p, counters
}

// meshOf is mesh with options.
func meshOf(t *testing.T, o outbound.Options) (*grpc.ClientConn, *outbound.Proxy) {
	t.Helper()
	cfg := config()
	o.HTTP2, o.Upstream, o.LearnNames = cfg, upstream.Options{HTTP2: cfg}, true
	p := outbound.New(o)
	l := listen(t)
	go func() { _ = p.Serve(l) }()
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		shutdown(t, p.Shutdown)
	})
	return cc, p
}

func service(name string, addresses ...string) *registry.Service {
	s := &registry.Service{Name: name}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{ID: a, Address: a, Weight: 1})
	}
	return s
}

// A client that knows nothing but the sidecar's address reaches the app beside
// another sidecar.
func TestThroughTwoSidecars(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, &app{name: "one"})
	beside, _ := sidecar(t, address)
	cc, p, _ := mesh(t, memory.New(service("greeter", beside)))
	client := grpc_testing.NewTestServiceClient(cc)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "echo", "1", "echo", "2", "echo-bin", "\x00\xff")
	var trailer metadata.MD
	got, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 1<<20)}}, grpc.Trailer(&trailer))
	if err != nil || got.GetServerId() != "one" || len(got.GetPayload().GetBody()) != 1<<20 {
		t.Fatalf("%v, %v", got.GetServerId(), err)
	}
	if !slices.Equal(trailer.Get("echo"), []string{"1", "2"}) || trailer.Get("echo-bin")[0] != "\x00\xff" {
		t.Errorf("trailers: %v", trailer)
	}
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, n*1000)}}); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil || len(r.GetPayload().GetBody()) != n*1000 {
			t.Fatalf("message %d: %v", n, err)
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	if n := len(p.Clusters()); n != 1 {
		t.Errorf("%d services in use, want 1", n)
	}
	_, err = client.EmptyCall(ctx, &grpc_testing.Empty{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("EmptyCall: %v", err)
	}
}

// The app beside one sidecar is down: its sidecar says so, and the RPC goes to
// another one.
func TestTheAppBesideASidecarIsDown(t *testing.T) {
	t.Parallel()
	dead, stop := serve(t, &app{name: "dead"})
	stop()
	alive, _ := serve(t, &app{name: "alive"})
	one, _ := sidecar(t, dead)
	two, _ := sidecar(t, alive)
	cc, _, counters := mesh(t, memory.New(service("greeter", one, two)))
	client := grpc_testing.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// Who answers is not known while all are asked, and one cannot be.
	for range 20 {
		got, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.CallAuthority("greeter"))
		if err != nil || got.GetServerId() != "alive" {
			t.Fatalf("%v, %v", got.GetServerId(), err)
		}
	}
	if n := counters.Service(telemetry.Outbound, "greeter").TransparentRetries.Load(); n == 0 {
		t.Error("nothing was retried")
	}
}

// What Pillion says itself says who and why.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	dead, stop := serve(t, &app{})
	stop()
	beside, _ := sidecar(t, dead)
	cc, _, _ := mesh(t, memory.New(service("greeter", beside)))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var trailer metadata.MD
	_, err := grpc_testing.NewTestServiceClient(cc).UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.CallAuthority("greeter"), grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unavailable || !slices.Contains([]string{"UF", "UH"}, trailer.Get("pillion-flags")[0]) {
		t.Errorf("%v, %v", err, trailer)
	}
}

// A shutdown lets RPCs under way end.
func TestShutdownWithRPCsUnderWay(t *testing.T) {
	t.Parallel()
	a := &app{name: "one", entered: make(chan struct{}), hold: make(chan struct{})}
	address, _ := serve(t, a)
	beside, in := sidecar(t, address)
	cc, out, _ := mesh(t, memory.New(service("greeter", beside)))
	client := grpc_testing.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			if _, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.CallAuthority("greeter")); err != nil {
				t.Errorf("an RPC under way: %v", err)
			}
		})
	}
	for range 10 {
		<-a.entered
	}
	var ends sync.WaitGroup
	ends.Go(func() { shutdown(t, in.Shutdown) })
	ends.Go(func() { shutdown(t, out.Shutdown) })
	close(a.hold)
	calls.Wait()
	ends.Wait()
}
