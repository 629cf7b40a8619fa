package relay

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Each side waits for the other's message before it sends its next.
func TestFullDuplexPingPong(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"Echo": echo})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "Echo")
		for i := range 300 {
			want := fmt.Sprint("message ", i)
			send(t, stream, []byte(want))
			if got := receive(t, stream); string(got) != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}

		finish(t, stream)
	})
}

// finish half-closes and expects the app to end with OK.
func finish(t *testing.T, stream grpc.ClientStream) {
	t.Helper()

	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var none []byte
	if err := stream.RecvMsg(&none); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v, want EOF", err)
	}
}

// After the client's half-close the app goes on.
func TestHalfCloseReachesTheAppAndLeavesTheAnswerOpen(t *testing.T) {
	t.Parallel()

	const messages = 50

	app := startApp(t, methods{"CountThenSend": func(stream grpc.ServerStream) error {
		received := 0
		for {
			var message []byte
			err := stream.RecvMsg(&message)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			received++
		}
		for range received {
			if err := stream.SendMsg(&[]byte{byte(received)}); err != nil {
				return err
			}
		}

		return nil
	}})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "CountThenSend")
		for range messages {
			send(t, stream, []byte("x"))
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for range messages {
			if got := receive(t, stream); got[0] != messages {
				t.Fatalf("the app counted %d", got[0])
			}
		}
		finish(t, stream)
	})
}

// Headers go out before there is a message: the app sends none before the client
// has seen them.
func TestHeadersAreNotHeldBack(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"HeadersFirst": func(stream grpc.ServerStream) error {
		if err := stream.SendHeader(metadata.Pairs("early", "yes")); err != nil {
			return err
		}

		return echo(stream)
	}})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "HeadersFirst")
		header, err := stream.Header()
		if err != nil || len(header["early"]) != 1 {
			t.Fatalf("headers %v, %v", header, err)
		}
		send(t, stream, []byte("now"))
		receive(t, stream)
		finish(t, stream)
	})
}

// The app answers with a status while the client still sends.
func TestAStatusBeforeTheRequestEnds(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"Enough": func(stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}

		return status.Error(codes.ResourceExhausted, "enough")
	}})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "Enough")
		message := make([]byte, 100_000)
		for {
			// It ends with EOF once the status is there; RecvMsg tells which.
			if err := stream.SendMsg(&message); err != nil {
				break
			}
		}

		var none []byte
		err := stream.RecvMsg(&none)
		if got := status.Convert(err); got.Code() != codes.ResourceExhausted || got.Message() != "enough" {
			t.Errorf("got %v", err)
		}
	})
}

// An app that has no use for the rest of the request says so by a reset after
// its trailers (RFC 9113, 8.1): the client must get the trailers all the same.
func TestTrailersComeBeforeTheResetThatFollowsThem(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		for {
			frame, err := conn.Read()
			if err != nil {
				return
			}
			request, is := frame.(*http2.MetaHeadersFrame)
			if !is || request.StreamEnded() {
				continue
			}
			_ = conn.Headers(request.StreamID, true, append(grpcHeaders(),
				rawh2.Field("grpc-status", "8"), rawh2.Field("grpc-message", "enough"))...)
			_ = conn.Reset(request.StreamID, http2.ErrCodeNo)
		}
	})

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			client := rawh2.Dial(t, route.Open(t, app))
			for i := range 50 {
				stream := uint32(1 + 2*i)
				if err := client.Headers(stream, false, rawh2.Request(harness.RouteService, "/test.Relay/Enough")...); err != nil {
					t.Fatal(err)
				}
				answer, err := client.Await(stream)
				if err != nil {
					t.Fatal(err)
				}
				if answer.WasReset || answer.Status() != "8" {
					t.Fatalf("stream %d: %+v", stream, answer)
				}
			}
		})
	}
}

// Each message of the answer is there before the app is allowed to send the next.
func TestAnswersAreStreamedNotBatched(t *testing.T) {
	t.Parallel()

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			next := make(chan struct{})
			app := startApp(t, methods{"Drip": func(stream grpc.ServerStream) error {
				for range 100 {
					if err := stream.SendMsg(&[]byte{1}); err != nil {
						return err
					}
					select {
					case <-next:
					case <-stream.Context().Done():
						return stream.Context().Err()
					}
				}

				return nil
			}})

			stream := open(t.Context(), t, dial(t, route.Open(t, app)), "Drip")
			for range 100 {
				receive(t, stream)
				select {
				case next <- struct{}{}:
				case <-stream.Context().Done():
					t.Fatal(stream.Context().Err())
				}
			}
			finish(t, stream)
		})
	}
}
