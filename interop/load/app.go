package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// App is an instance that counts its RPCs and says in each answer who it is.
type App struct {
	testpb.UnimplementedTestServiceServer

	Name string
	// Address is the "host:port" that it serves.
	Address string
	// Server serves it.
	Server *grpc.Server

	calls  atomic.Int64
	served chan struct{}
}

// StartApp starts an instance at an address, at any where that is empty. It ends
// with the test.
func StartApp(t testing.TB, name, address string, options ...grpc.ServerOption) *App {
	t.Helper()

	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}

	a := &App{
		Name: name, Address: listener.Addr().String(),
		Server: grpc.NewServer(options...), served: make(chan struct{}),
	}
	testpb.RegisterTestServiceServer(a.Server, a)
	go func() {
		defer close(a.served)
		_ = a.Server.Serve(listener)
	}()
	t.Cleanup(a.Kill)

	return a
}

// StartApps starts instances named 0, 1, ... and returns their addresses too.
func StartApps(t testing.TB, count int) (apps []*App, addresses []string) {
	t.Helper()

	for i := range count {
		a := StartApp(t, strconv.Itoa(i), "")
		apps = append(apps, a)
		addresses = append(addresses, a.Address)
	}

	return apps, addresses
}

// Calls is how many RPCs have come.
func (a *App) Calls() int64 { return a.calls.Load() }

// Kill ends the instance at once.
func (a *App) Kill() {
	a.Server.Stop()
	<-a.served
}

// Stop ends the instance as a service manager does.
func (a *App) Stop() {
	a.Server.GracefulStop()
	<-a.served
}

// UnaryCall says who answers.
func (a *App) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	a.calls.Add(1)

	return &testpb.SimpleResponse{Username: a.Name}, nil
}

// FullDuplexCall answers each message with one that says who answers.
func (a *App) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	a.calls.Add(1)
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: []byte(a.Name)}}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// Dial makes a client of a sidecar or an app. It ends with the test.
func Dial(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+address,
		append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// Who makes one unary RPC, of a minute at most, and returns the name of the instance
// that answered.
func Who(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}, options...)

	return answer.GetUsername(), err
}

// Converse makes one RPC of several messages, of a minute at most, each answered before
// the next, and returns the name of the instance that answered.
func Converse(ctx context.Context, conn *grpc.ClientConn, messages int, options ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx, options...)
	if err != nil {
		return "", err
	}
	var name string
	for range messages {
		// EOF is what Send says of a stream that is over; Recv says how it ended.
		if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
			return name, err
		}
		answer, err := stream.Recv()
		if err != nil {
			return name, err
		}
		name = string(answer.GetPayload().GetBody())
	}
	if err := stream.CloseSend(); err != nil {
		return name, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return name, fmt.Errorf("the end of the stream is %w", err)
	}

	return name, nil
}
