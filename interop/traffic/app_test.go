package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait and every RPC that has to succeed.
	patience = 60 * time.Second
	// unaryCall is the method of most of these tests.
	unaryCall = "/grpc.testing.TestService/UnaryCall"
)

// app is an instance that counts its RPCs and says in each answer who it is.
type app struct {
	testpb.UnimplementedTestServiceServer

	name    string
	address string
	calls   atomic.Int64
	server  *grpc.Server
	served  chan struct{}
}

func (a *app) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	a.calls.Add(1)

	return &testpb.SimpleResponse{Username: a.name}, nil
}

// FullDuplexCall answers each message with an empty one.
func (a *app) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	a.calls.Add(1)
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// startApp starts an instance at an address, or at any where that is empty.
func startApp(t testing.TB, name, address string, options ...grpc.ServerOption) *app {
	t.Helper()

	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}

	a := &app{
		name: name, address: listener.Addr().String(),
		server: grpc.NewServer(options...), served: make(chan struct{}),
	}
	testpb.RegisterTestServiceServer(a.server, a)
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(a.stop)

	return a
}

func (a *app) stop() {
	a.server.Stop()
	<-a.served
}

func dial(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+address,
		append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// who makes one RPC and returns the name of the instance that answered.
func who(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}, options...)

	return answer.GetUsername(), err
}

// converse makes one RPC of several messages, each answered before the next.
func converse(ctx context.Context, conn *grpc.ClientConn, messages int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range messages {
		// EOF is what Send says of a stream that is over; Recv says how it ended.
		if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the end of the stream is %w", err)
	}

	return nil
}

// shares makes RPCs, some at a time, and counts who answered.
func shares(t *testing.T, conn *grpc.ClientConn, count int) map[string]int {
	t.Helper()

	const workers = 20

	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	for range workers {
		go func() {
			for range count / workers {
				name, err := who(t.Context(), conn)
				results <- result{name, err}
			}
		}()
	}

	answered := map[string]int{}
	failed := 0
	for range count / workers * workers {
		r := <-results
		if r.err != nil {
			failed++
			if failed <= 5 {
				t.Errorf("RPC: %v", r.err)
			}

			continue
		}
		answered[r.name]++
	}
	if failed > 0 {
		t.Errorf("%d of %d RPCs failed", failed, count)
	}

	return answered
}

// eventually asks again and again until the answer is yes.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// startApps starts instances named 0, 1, ... and returns their addresses too.
func startApps(t testing.TB, count int) (apps []*app, addresses []string) {
	t.Helper()

	for i := range count {
		a := startApp(t, strconv.Itoa(i), "")
		apps = append(apps, a)
		addresses = append(addresses, a.address)
	}

	return apps, addresses
}
