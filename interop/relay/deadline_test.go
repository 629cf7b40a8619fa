package relay

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

// slack is what the app's deadline may be later than the client's: an app that
// gave up at the very same moment would reset before Pillion answers.
const slack = 250 * time.Millisecond

func TestTheAppIsToldTheTimeThatRemains(t *testing.T) {
	t.Parallel()

	remaining := make(chan time.Duration, 1)
	app := startApp(t, methods{"Deadline": func(stream grpc.ServerStream) error {
		deadline, set := stream.Context().Deadline()
		if !set {
			remaining <- 0
		} else {
			remaining <- time.Until(deadline)
		}

		return echo(stream)
	}})

	// One route after the other: they share one channel.
	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			conn := dial(t, route.Open(t, app))

			for _, allowed := range []time.Duration{30 * time.Second, 10 * time.Minute, 200 * time.Hour} {
				if got := deadlineSeen(t, conn, allowed, remaining); got > allowed+slack || got < allowed-20*time.Second {
					t.Errorf("of %v the app is told %v", allowed, got)
				}
			}
		})
	}
}

func deadlineSeen(t *testing.T, conn *grpc.ClientConn, allowed time.Duration, seen <-chan time.Duration) time.Duration {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), allowed)
	defer cancel()

	var request, answer []byte
	if err := conn.Invoke(ctx, "/test.Relay/Deadline", &request, &answer); err != nil {
		t.Fatal(err)
	}

	return <-seen
}

// Nothing hidden: a client that sets no deadline gets none.
func TestNoDeadlineIsAdded(t *testing.T) {
	t.Parallel()

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			timeouts := make(chan string, 1)
			app := rawh2.Serve(t, func(conn *rawh2.Conn) {
				answerAll(conn, func(request *http2.MetaHeadersFrame) {
					timeouts <- rawh2.Get(request.Fields, "grpc-timeout")
					_ = conn.Headers(request.StreamID, true, append(grpcHeaders(), rawh2.Field("grpc-status", "0"))...)
				})
			})

			client := rawh2.Dial(t, route.Open(t, app))
			if err := client.Headers(1, true, rawh2.Request(harness.RouteService, "/test.Relay/None")...); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Await(1); err != nil {
				t.Fatal(err)
			}
			if timeout := <-timeouts; timeout != "" {
				t.Errorf("the app is told %q", timeout)
			}
		})
	}
}

// An app that never answers: Pillion answers in its place, at once, and tells
// the app that nobody waits any longer. The client has no timer of its own.
func TestExpiryIsAnsweredAndCancelsUpstream(t *testing.T) {
	t.Parallel()

	const (
		attempts = 10
		allowed  = 200 * time.Millisecond
		// atOnce is how late the answer may be; on a busy machine at least one attempt of
		// several is not held up for longer.
		atOnce = 150 * time.Millisecond
	)

	for _, route := range harness.Routes[1:] {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			resets := make(chan http2.ErrCode, 2*attempts)
			app := rawh2.Serve(t, func(conn *rawh2.Conn) {
				for {
					frame, err := conn.Read()
					if err != nil {
						return
					}
					if reset, is := frame.(*http2.RSTStreamFrame); is {
						resets <- reset.ErrCode
					}
				}
			})
			client := rawh2.Dial(t, route.Open(t, app))

			soonest := time.Duration(1<<63 - 1)
			for i := range attempts {
				stream := uint32(1 + 2*i)
				fields := rawh2.Request(harness.RouteService, "/test.Relay/Never",
					rawh2.Field("grpc-timeout", strconv.FormatInt(allowed.Milliseconds(), 10)+"m"))

				began := time.Now()
				if err := client.Headers(stream, true, fields...); err != nil {
					t.Fatal(err)
				}
				answer, err := client.Await(stream)
				took := time.Since(began)
				if err != nil {
					t.Fatal(err)
				}

				if answer.Status() != "4" || rawh2.Get(answer.Headers, ":status") != "200" || answer.WasReset {
					t.Fatalf("attempt %d: %+v", i, answer)
				}
				if flags := rawh2.Get(answer.Trailers, "pillion-flags"); flags != "DT" {
					t.Errorf("pillion-flags: %q", flags)
				}
				if took < allowed {
					t.Errorf("answered after %v, before the deadline", took)
				}
				soonest = min(soonest, took)

				select {
				case code := <-resets:
					if code != http2.ErrCodeCancel {
						t.Errorf("the app's stream was reset with %v", code)
					}
				case <-time.After(patience):
					t.Fatal("the app's stream was not reset")
				}
			}

			t.Logf("soonest of %d: %v after the deadline", attempts, soonest-allowed)
			if late := soonest - allowed; late > atOnce {
				t.Errorf("answered %v after the deadline at the soonest, want at most %v", late, atOnce)
			}
		})
	}
}
