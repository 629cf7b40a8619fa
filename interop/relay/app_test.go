package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds an RPC that has to succeed.
const patience = 60 * time.Second

// maxMessage is the largest message that the tests' apps and clients take.
const maxMessage = 32 << 20

// rawCodec takes messages as bytes: what is in them is none of a relay's business.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	message, is := v.(*[]byte)
	if !is {
		return nil, fmt.Errorf("message is %T, want *[]byte", v)
	}

	return *message, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	message, is := v.(*[]byte)
	if !is {
		return fmt.Errorf("message is %T, want *[]byte", v)
	}
	*message = append([]byte(nil), data...)

	return nil
}

// methods says what an app does, by the name of the method: "Echo" for what a
// client calls as /test.Relay/Echo.
type methods map[string]func(grpc.ServerStream) error

// startApp serves these methods and returns the address.
func startApp(t *testing.T, serve methods, options ...grpc.ServerOption) string {
	t.Helper()

	return serveApp(t, harness.Listen(t), serve, options...)
}

func serveApp(t *testing.T, listener net.Listener, serve methods, options ...grpc.ServerOption) string {
	t.Helper()

	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodec(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			full, _ := grpc.MethodFromServerStream(stream)
			_, name, _ := strings.Cut(full, "/test.Relay/")
			method, known := serve[name]
			if !known {
				return status.Errorf(codes.Unimplemented, "the test's app has no method %q", full)
			}

			return method(stream)
		}),
	}, options...)...)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	return listener.Addr().String()
}

// dial returns a client connection to an address of a route.
func dial(t *testing.T, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	if !strings.HasPrefix(address, "unix:") {
		address = "passthrough:///" + address
	}
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage)),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// forEachRoute opens every route to an app, each in a parallel subtest.
func forEachRoute(t *testing.T, app string, test func(t *testing.T, conn *grpc.ClientConn)) {
	t.Helper()

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()
			test(t, dial(t, route.Open(t, app)))
		})
	}
}

var bidi = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// open begins an RPC that the end of the test cancels.
func open(ctx context.Context, t *testing.T, conn *grpc.ClientConn, method string, options ...grpc.CallOption) grpc.ClientStream {
	t.Helper()

	ctx, cancel := context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)

	stream, err := conn.NewStream(ctx, bidi, "/test.Relay/"+method, options...)
	if err != nil {
		t.Fatal(err)
	}

	return stream
}

// call makes a unary RPC.
func call(ctx context.Context, conn *grpc.ClientConn, method string, request []byte, options ...grpc.CallOption) ([]byte, error) {
	var answer []byte
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := conn.Invoke(ctx, "/test.Relay/"+method, &request, &answer, options...)

	return answer, err
}

// messageStream is what both ends of an RPC have in common.
type messageStream interface {
	SendMsg(message any) error
	RecvMsg(message any) error
}

func send(t *testing.T, stream messageStream, message []byte) {
	t.Helper()

	if err := stream.SendMsg(&message); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func receive(t *testing.T, stream messageStream) []byte {
	t.Helper()

	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		t.Fatalf("receive: %v", err)
	}

	return message
}

// echo returns every message as it comes.
func echo(stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return ignoreEOF(err)
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func listenUnix(t *testing.T) (net.Listener, string) {
	t.Helper()

	path := harness.SocketFolder(t) + "/app"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })

	return listener, "unix://" + path
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}

	return err
}
