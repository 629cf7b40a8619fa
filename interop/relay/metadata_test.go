package relay

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// everyByte is a value that only a -bin key can carry.
var everyByte = func() string {
	var all strings.Builder
	for b := range 256 {
		all.WriteByte(byte(b))
	}

	return all.String()
}()

// difficult is metadata that a careless relay changes.
func difficult(prefix string) metadata.MD {
	return metadata.MD{
		prefix + "one":        {"1"},
		prefix + "repeated":   {"b", "a", "b", "", "c"},
		prefix + "with-comma": {"a,b", "c"},
		prefix + "spaces":     {"inner  space"},
		prefix + "long":       {strings.Repeat("0123456789", 600)},
		prefix + "_.9-odd":    {"~!@#$%^&*()[]{}|;:'\"<>?/"},
		prefix + "every-bin":  {everyByte, "", "\x00"},
	}
}

func TestMetadataArrivesUnchanged(t *testing.T) {
	t.Parallel()

	seen := make(chan metadata.MD, 1)
	app := startApp(t, methods{"Show": func(stream grpc.ServerStream) error {
		if err := stream.SendHeader(difficult("header-")); err != nil {
			return err
		}
		stream.SetTrailer(difficult("trailer-"))

		return echo(stream)
	}, "See": func(stream grpc.ServerStream) error {
		received, _ := metadata.FromIncomingContext(stream.Context())
		seen <- received

		return echo(stream)
	}})

	// One route after the other: the requests share one channel.
	var direct struct{ request, header, trailer []string }
	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			conn := dial(t, route.Open(t, app))

			ctx := metadata.NewOutgoingContext(t.Context(), difficult("request-"))
			if _, err := call(ctx, conn, "See", nil); err != nil {
				t.Fatal(err)
			}
			request := <-seen
			contains(t, "request", request, difficult("request-"))

			var header, trailer metadata.MD
			if _, err := call(t.Context(), conn, "Show", nil, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
				t.Fatal(err)
			}
			contains(t, "header", header, difficult("header-"))
			contains(t, "trailer", trailer, difficult("trailer-"))

			// Nothing is added either.
			keys := func(md metadata.MD) []string { return slices.Sorted(maps.Keys(md)) }
			if route.Sidecars == 0 {
				direct.request, direct.header, direct.trailer = keys(request), keys(header), keys(trailer)

				return
			}
			wanted := direct.request
			if route.MTLS {
				wanted = slices.Sorted(slices.Values(append(slices.Clone(wanted), harness.Proven...)))
			}
			for _, part := range []struct {
				name      string
				got, want []string
			}{
				{"request", keys(request), wanted},
				{"header", keys(header), direct.header},
				{"trailer", keys(trailer), direct.trailer},
			} {
				if !slices.Equal(part.got, part.want) {
					t.Errorf("keys of the %s: %q, without Pillion %q", part.name, part.got, part.want)
				}
			}
		})
	}
}

func contains(t *testing.T, what string, got, want metadata.MD) {
	t.Helper()

	for key, values := range want {
		if !slices.Equal(got[key], values) {
			t.Errorf("%s: %s is %q, want %q", what, key, got[key], values)
		}
	}
}

// Keys that are repeated with others between them keep their places, and a value
// that must not be kept in a compression table (RFC 7541, 6.2.3) stays so.
func TestHeaderFieldsKeepTheirOrder(t *testing.T) {
	t.Parallel()

	sensitive := hpack.HeaderField{Name: "authorization", Value: "Bearer secret", Sensitive: true}
	fields := func(prefix string) []hpack.HeaderField {
		return []hpack.HeaderField{
			rawh2.Field(prefix+"z", "1"),
			rawh2.Field(prefix+"a", "2"),
			sensitive,
			rawh2.Field(prefix+"z", "3"),
			rawh2.Field(prefix+"a", "2"),
			rawh2.Field(prefix+"empty", ""),
			rawh2.Field(prefix+"z", "1"),
		}
	}

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			seen := make(chan []hpack.HeaderField, 1)
			app := rawh2.Serve(t, func(conn *rawh2.Conn) {
				answerAll(conn, func(request *http2.MetaHeadersFrame) {
					seen <- slices.Clone(request.Fields)
					_ = conn.Headers(request.StreamID, false, append([]hpack.HeaderField{
						rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"),
					}, fields("h-")...)...)
					_ = conn.Headers(request.StreamID, true, append(
						[]hpack.HeaderField{rawh2.Field("grpc-status", "0")}, fields("t-")...)...)
				})
			})

			client := rawh2.Dial(t, route.Open(t, app))
			request := rawh2.Request(harness.RouteService, "/test.Relay/Order", fields("r-")...)
			if err := client.Headers(1, true, request...); err != nil {
				t.Fatal(err)
			}
			answer, err := client.Await(1)
			if err != nil {
				t.Fatal(err)
			}

			got := <-seen
			if route.MTLS {
				told := got[len(got)-len(harness.Proven):]
				for i, key := range harness.Proven {
					if told[i].Name != key || told[i].Value == "" {
						t.Errorf("at the end of the request: %v, want %s", told[i], key)
					}
				}
				got = got[:len(got)-len(told)]
			}
			sameFields(t, "request", got, fields("r-"))
			sameFields(t, "header", answer.Headers, fields("h-"))
			sameFields(t, "trailer", answer.Trailers, fields("t-"))
		})
	}
}

// sameFields compares the fields from the first of want's on.
func sameFields(t *testing.T, what string, got, want []hpack.HeaderField) {
	t.Helper()

	from := slices.IndexFunc(got, func(field hpack.HeaderField) bool { return field.Name == want[0].Name })
	if from < 0 || !slices.Equal(got[from:], want) {
		t.Errorf("%s: got %v, want at its end %v", what, got, want)
	}
}

// Fields that belong to one connection only are malformed in HTTP/2 (RFC 9113,
// 8.2.2): such a request reaches no app.
func TestConnectionFieldsReachNoApp(t *testing.T) {
	t.Parallel()

	for _, route := range harness.Routes[1:] {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			app := startApp(t, methods{"Never": func(stream grpc.ServerStream) error {
				t.Error("the request reached the app")

				return echo(stream)
			}})
			address := route.Open(t, app)

			for _, bad := range []hpack.HeaderField{
				rawh2.Field("connection", "close"),
				rawh2.Field("keep-alive", "1"),
				rawh2.Field("proxy-connection", "keep-alive"),
				rawh2.Field("transfer-encoding", "chunked"),
				rawh2.Field("upgrade", "h2c"),
				rawh2.Field("Upper-Case", "x"),
			} {
				client := rawh2.Dial(t, address)
				if err := client.Headers(1, true, rawh2.Request(harness.RouteService, "/test.Relay/Never", bad)...); err != nil {
					t.Fatal(err)
				}

				answer, err := client.Await(1)
				if err == nil && !answer.WasReset && rawh2.Get(answer.Headers, ":status") == "200" && answer.Status() == "0" {
					t.Errorf("%v was taken: %+v", bad, answer)
				}
			}
		})
	}
}

// Many different values in a row make the compression tables of all connections
// turn over; each RPC must still see its own.
func TestMetadataOfManyRPCsIsNotMixedUp(t *testing.T) {
	t.Parallel()

	app := startApp(t, methods{"Return": func(stream grpc.ServerStream) error {
		received, _ := metadata.FromIncomingContext(stream.Context())
		own := metadata.MD{}
		for key, values := range received {
			if strings.HasPrefix(key, "own-") {
				own[key] = values
			}
		}
		if err := stream.SendHeader(own); err != nil {
			return err
		}

		return echo(stream)
	}})

	forEachRoute(t, app, func(t *testing.T, conn *grpc.ClientConn) {
		const workers, each = 8, 100

		failures := make(chan error, workers)
		for worker := range workers {
			go func() { failures <- returnOwn(t.Context(), t, conn, worker, each) }()
		}
		for range workers {
			if err := <-failures; err != nil {
				t.Error(err)
			}
		}
	})
}

func returnOwn(ctx context.Context, t *testing.T, conn *grpc.ClientConn, worker, count int) error {
	t.Helper()

	for i := range count {
		sent := metadata.MD{}
		for key := range 1 + (worker+i)%7 {
			name := "own-" + strings.Repeat("k", 1+key)
			sent[name] = []string{strings.Repeat(string(rune('a'+worker)), 1+i*3%200), strings.Repeat("v", i)}
		}

		var header metadata.MD
		if _, err := call(metadata.NewOutgoingContext(ctx, sent), conn, "Return", nil, grpc.Header(&header)); err != nil {
			return err
		}
		contains(t, "own", header, sent)
	}

	return nil
}
