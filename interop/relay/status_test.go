package relay

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// troublesome is text that grpc-message has to escape.
const troublesome = "100 % sure: \"ü\" 日本\n\ttab\r, \x01 and 🜚"

func TestEveryStatusArrives(t *testing.T) {
	t.Parallel()

	number := func(stream grpc.ServerStream) codes.Code {
		received, _ := metadata.FromIncomingContext(stream.Context())
		code, _ := strconv.ParseUint(received["code"][0], 10, 32)

		return codes.Code(code)
	}
	app := startApp(t, methods{
		// Headers and trailers are one block where nothing was sent before.
		"TrailersOnly": func(stream grpc.ServerStream) error {
			return status.Error(number(stream), troublesome)
		},
		"AfterMessage": func(stream grpc.ServerStream) error {
			if err := stream.SendMsg(&[]byte{1}); err != nil {
				return err
			}

			return status.Error(number(stream), troublesome)
		},
	})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		all := []codes.Code{17, 99, 1 << 20} // unknown ones go through as well
		for code := codes.OK; code <= codes.Unauthenticated; code++ {
			all = append(all, code)
		}

		for _, method := range []string{"TrailersOnly", "AfterMessage"} {
			for _, code := range all {
				if code == codes.OK && method == "TrailersOnly" {
					continue // a unary RPC that is OK has a message
				}

				ctx := metadata.AppendToOutgoingContext(t.Context(), "code", strconv.Itoa(int(code)))
				_, err := call(ctx, conn, method, nil)

				want := troublesome
				if code == codes.OK {
					want = ""
				}
				if got := status.Convert(err); got.Code() != code || got.Message() != want {
					t.Errorf("%s %v: got %v %q", method, code, got.Code(), got.Message())
				}
			}
		}
	})
}

func TestStatusDetailsArriveUnchanged(t *testing.T) {
	t.Parallel()

	sent, err := status.New(codes.FailedPrecondition, troublesome).WithDetails(
		wrapperspb.Bytes([]byte(everyByte)), wrapperspb.String(strings.Repeat("long", 1000)))
	if err != nil {
		t.Fatal(err)
	}
	app := startApp(t, methods{"Fail": func(grpc.ServerStream) error { return sent.Err() }})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		_, err := call(t.Context(), conn, "Fail", nil)
		if got := status.Convert(err); !proto.Equal(got.Proto(), sent.Proto()) {
			t.Errorf("got %v", got)
		}
	})
}

// One block stays one block, and an answer with a block of headers keeps it,
// also where it has no message: the difference decides about retries.
func TestTrailersOnlyAnswersStaySo(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		answerAll(conn, func(request *http2.MetaHeadersFrame) {
			end := []hpack.HeaderField{rawh2.Field("grpc-status", "5"), rawh2.Field("grpc-message", "gone%20away"), rawh2.Field("x-end", "1")}
			if rawh2.Get(request.Fields, ":path") == "/test.Relay/One" {
				_ = conn.Headers(request.StreamID, true, append(grpcHeaders(), end...)...)

				return
			}
			_ = conn.Headers(request.StreamID, false, grpcHeaders()...)
			_ = conn.Headers(request.StreamID, true, end...)
		})
	})

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			client := rawh2.Dial(t, route.Open(t, app))
			for i, method := range []string{"One", "Two"} {
				stream := uint32(1 + 2*i)
				if err := client.Headers(stream, true, rawh2.Request(harness.RouteService, "/test.Relay/"+method)...); err != nil {
					t.Fatal(err)
				}
				answer, err := client.Await(stream)
				if err != nil {
					t.Fatal(err)
				}

				inHeaders := rawh2.Get(answer.Headers, "grpc-status") != ""
				if want := method == "One"; inHeaders != want || answer.Status() != "5" ||
					rawh2.Get(answer.Trailers, "grpc-message") != "gone%20away" || rawh2.Get(answer.Trailers, "x-end") != "1" {
					t.Errorf("%s: %+v", method, answer)
				}
			}
		})
	}
}

// What stands between an app and its port may answer in plain HTTP.
func TestPlainHTTPAnswersHaveAStatus(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		answerAll(conn, func(request *http2.MetaHeadersFrame) {
			_, code, _ := strings.Cut(rawh2.Get(request.Fields, ":path"), "/test.Relay/")
			_ = conn.Headers(request.StreamID, false,
				rawh2.Field(":status", code), rawh2.Field("content-type", "text/html"))
			_ = conn.Data(request.StreamID, true, []byte("<h1>no</h1>"))
		})
	})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		for code, want := range map[int]codes.Code{
			400: codes.Internal,
			401: codes.Unauthenticated,
			403: codes.PermissionDenied,
			404: codes.Unimplemented,
			429: codes.Unavailable,
			500: codes.Unknown,
			502: codes.Unavailable,
			503: codes.Unavailable,
			504: codes.Unavailable,
		} {
			_, err := call(t.Context(), conn, strconv.Itoa(code), nil)
			if got := status.Code(err); got != want {
				t.Errorf("HTTP %d: %v, want %v", code, err, want)
			}
		}
	})
}

// An answer may not end without a status.
func TestAnAnswerWithoutStatusIsAnError(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, func(conn *rawh2.Conn) {
		answerAll(conn, func(request *http2.MetaHeadersFrame) {
			_ = conn.Headers(request.StreamID, false, grpcHeaders()...)
			_ = conn.Data(request.StreamID, true, rawh2.Message(false, []byte("message")))
		})
	})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		_, err := call(t.Context(), conn, "Unfinished", nil)
		if code := status.Code(err); code != codes.Internal && code != codes.Unknown {
			t.Errorf("got %v", err)
		}
	})
}
