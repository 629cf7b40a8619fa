package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// waitForCancel tells began when an RPC has begun and ended when its client gave it up.
func waitForCancel(began, ended chan struct{}) methods {
	return methods{"Wait": func(stream grpc.ServerStream) error {
		if err := stream.SendMsg(&[]byte{1}); err != nil {
			return err
		}
		began <- struct{}{}
		<-stream.Context().Done()
		ended <- struct{}{}

		return stream.Context().Err()
	}}
}

func told(t *testing.T, what string, by <-chan struct{}) {
	t.Helper()

	select {
	case <-by:
	case <-time.After(patience):
		t.Fatalf("the app was not told that %s", what)
	}
}

func TestTheAppLearnsThatTheClientCancelled(t *testing.T) {
	t.Parallel()

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
			conn := dial(t, route.Open(t, startApp(t, waitForCancel(began, ended))))

			ctx, cancel := context.WithCancel(t.Context())
			stream := open(ctx, t, conn, "Wait")
			told(t, "the RPC has begun", began)
			receive(t, stream)
			cancel()
			told(t, "the client cancelled", ended)
		})
	}
}

func TestTheAppLearnsThatTheClientIsGone(t *testing.T) {
	t.Parallel()

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
			client := rawh2.Dial(t, route.Open(t, startApp(t, waitForCancel(began, ended))))
			if err := client.Headers(1, false, rawh2.Request(harness.RouteService, "/test.Relay/Wait")...); err != nil {
				t.Fatal(err)
			}
			told(t, "the RPC has begun", began)
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			told(t, "the client is gone", ended)
		})
	}
}

// resetStatus is what a client sees where an app resets a stream with each code
// of RFC 9113, section 7.
var resetStatus = map[http2.ErrCode][]codes.Code{
	http2.ErrCodeNo:              {codes.Internal},
	http2.ErrCodeProtocol:        {codes.Internal},
	http2.ErrCodeInternal:        {codes.Internal},
	http2.ErrCodeSettingsTimeout: {codes.Internal},
	http2.ErrCodeStreamClosed:    {codes.Internal},
	http2.ErrCodeFrameSize:       {codes.Internal},
	http2.ErrCodeRefusedStream:   {codes.Unavailable},
	http2.ErrCodeCancel:          {codes.Canceled},
	http2.ErrCodeCompression:     {codes.Internal},
	http2.ErrCodeConnect:         {codes.Internal},
	// The mapping of grpc-go differs from that of gRPC's specification.
	http2.ErrCodeFlowControl:        {codes.Internal, codes.ResourceExhausted},
	http2.ErrCodeEnhanceYourCalm:    {codes.ResourceExhausted},
	http2.ErrCodeInadequateSecurity: {codes.PermissionDenied},
	http2.ErrCodeHTTP11Required:     {codes.Internal},
}

func TestTheClientLearnsWhyTheAppReset(t *testing.T) {
	t.Parallel()

	codeOf := func(path string) (code http2.ErrCode, when string) {
		_, name, _ := strings.Cut(path, "/test.Relay/")
		when, number, _ := strings.Cut(name, "/")
		_, _ = fmt.Sscan(number, &code)

		return code, when
	}
	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		answerAll(conn, func(request *http2.MetaHeadersFrame) {
			code, when := codeOf(rawh2.Get(request.Fields, ":path"))
			if when != "AtOnce" {
				_ = conn.Headers(request.StreamID, false, grpcHeaders()...)
			}
			if when == "AfterMessage" {
				_ = conn.Data(request.StreamID, false, rawh2.Message(false, []byte("message")))
			}
			_ = conn.Reset(request.StreamID, code)
		})
	})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		for code, want := range resetStatus {
			for _, when := range []string{"AtOnce", "AfterHeaders", "AfterMessage"} {
				stream := open(t.Context(), t, conn, fmt.Sprintf("%s/%d", when, code))
				if err := stream.CloseSend(); err != nil {
					t.Fatal(err)
				}
				if when == "AfterMessage" {
					if got := receive(t, stream); string(got) != "message" {
						t.Errorf("%v: got %q", code, got)
					}
				}

				var none []byte
				err := stream.RecvMsg(&none)
				if !slices.Contains(want, status.Code(err)) {
					t.Errorf("%s, reset with %v: %v, want %v", when, code, err, want)
				}
			}
		}
	})
}

// The app's process dies in the middle of an RPC.
func TestTheClientLearnsThatTheAppIsGone(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		for {
			frame, err := conn.Read()
			if err != nil {
				return
			}
			if request, is := frame.(*http2.MetaHeadersFrame); is {
				_ = conn.Headers(request.StreamID, false, grpcHeaders()...)
				_ = conn.Data(request.StreamID, false, rawh2.Message(false, []byte("last words")))

				return
			}
		}
	})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "Die")
		// It may be told of the end before of the words.
		var message []byte
		err := stream.RecvMsg(&message)
		if err == nil {
			err = stream.RecvMsg(&message)
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("it took until the deadline")
		}
	})
}
