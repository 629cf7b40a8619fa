package relay

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
)

// sizes are around the limits of frames and windows, up to 20 MiB.
var sizes = []int{
	0, 1, 2, 5, 100, 16384 - 5, 16384 - 4, 16384, 16385, 65535 - 5, 65535, 65536, 1 << 20, 4<<20 + 1, 20 << 20,
}

func TestMessagesOfAllSizes(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"Echo": echo})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		stream := open(t.Context(), t, conn, "Echo")
		for _, size := range sizes {
			message := noise(size)
			send(t, stream, message)
			if got := receive(t, stream); !bytes.Equal(got, message) {
				t.Errorf("a message of %d bytes came back with %d, changed", size, len(got))
			}
		}
	})
}

func TestCompressedMessages(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"Echo": echo})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		for _, size := range []int{0, 1, 100_000, 300_000} {
			for _, message := range [][]byte{noise(size), make([]byte, size)} {
				got, err := call(t.Context(), conn, "Echo", message, grpc.UseCompressor(gzip.Name))
				if err != nil || !bytes.Equal(got, message) {
					t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
				}
			}
		}
	})
}

// How messages are cut into frames, what their flags say and what is in them is
// the business of client and app.
func TestFramesCarryTheSameBytes(t *testing.T) {
	t.Parallel()

	app := rawh2.Serve(t, echoFrames)

	// Many messages, flagged as compressed by a method that Pillion cannot know.
	var body []byte
	for i := range 200 {
		body = append(body, rawh2.Message(i%2 == 0, noise(i%97))...)
	}

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			client := rawh2.Dial(t, route.Open(t, app))
			for i, step := range []int{1, 3, 7, 1000, 16384} {
				stream := uint32(1 + 2*i)
				fields := rawh2.Request(harness.RouteService, "/test.Relay/Frames", rawh2.Field("grpc-encoding", "of-its-own"))
				if err := client.Headers(stream, false, fields...); err != nil {
					t.Fatal(err)
				}

				rest := body
				if step == 1 {
					rest = body[:500] // a frame for each byte: enough is enough
				}
				want := rest
				for len(rest) > 0 {
					piece := rest[:min(step, len(rest))]
					rest = rest[len(piece):]
					if err := client.Data(stream, false, piece); err != nil {
						t.Fatal(err)
					}
				}
				if err := client.Data(stream, true, nil); err != nil {
					t.Fatal(err)
				}

				answer, err := client.Await(stream)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(answer.Body, want) || answer.Status() != "0" ||
					rawh2.Get(answer.Headers, "grpc-encoding") != "of-its-own" {
					t.Errorf("in frames of %d: %d bytes came back of %d, status %q", step, len(answer.Body), len(want), answer.Status())
				}
			}
		})
	}
}

// echoFrames sends each request's encoding and DATA back as they come.
func echoFrames(conn *rawh2.Conn) {
	for {
		frame, err := conn.Read()
		if err != nil {
			return
		}

		var end bool
		stream := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			encoding := rawh2.Get(frame.Fields, "grpc-encoding")
			_ = conn.Headers(stream, false, append(grpcHeaders(), rawh2.Field("grpc-encoding", encoding))...)
			end = frame.StreamEnded()
		case *http2.DataFrame:
			if len(frame.Data()) > 0 {
				_ = conn.Data(stream, false, frame.Data())
			}
			end = frame.StreamEnded()
		}
		if end {
			_ = conn.Headers(stream, true, hpack.HeaderField{Name: "grpc-status", Value: "0"})
		}
	}
}

// noise is bytes that do not repeat, the same for each size.
func noise(size int) []byte {
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	bytes := make([]byte, size)
	_, _ = source.Read(bytes)

	return bytes
}
