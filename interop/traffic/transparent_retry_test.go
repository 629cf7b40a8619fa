package traffic

import (
	"sync/atomic"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// spoiler is an instance that treats the requests that reach it badly, each in
// the same way, and counts them.
type spoiler struct {
	address  string
	requests atomic.Int64
}

// startSpoiler calls spoil for each request's headers; the connection is closed
// where it returns false.
func startSpoiler(t *testing.T, spoil func(conn *rawh2.Conn, stream uint32) bool) *spoiler {
	t.Helper()

	s := &spoiler{}
	s.address = rawh2.Serve(t, func(conn *rawh2.Conn) {
		for {
			frame, err := conn.Read()
			if err != nil {
				return
			}
			if request, is := frame.(*http2.MetaHeadersFrame); is {
				s.requests.Add(1)
				if !spoil(conn, request.StreamID) {
					return
				}
			}
		}
	})

	return s
}

// What an instance provably did not process goes to another, unseen by the client.
func TestWhatWasNotProcessedGoesElsewhere(t *testing.T) {
	t.Parallel()

	for name, spoil := range map[string]func(conn *rawh2.Conn, stream uint32) bool{
		"REFUSED_STREAM": func(conn *rawh2.Conn, stream uint32) bool {
			return conn.Reset(stream, http2.ErrCodeRefusedStream) == nil
		},
		"GOAWAY with a lower last stream": func(conn *rawh2.Conn, stream uint32) bool {
			_ = conn.GoAway(stream-1, http2.ErrCodeNo)

			return false
		},
		"GOAWAY with a lower last stream, connection left open": func(conn *rawh2.Conn, _ uint32) bool {
			return conn.GoAway(0, http2.ErrCodeNo) == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			bad, good := startSpoiler(t, spoil), load.StartApp(t, "good", "")
			conn := load.Dial(t, harness.Outbound(t, bad.address, good.Address).Outbound)

			if answered := shares(t, conn, 400); answered["good"] != 400 {
				t.Errorf("answered by %v", answered)
			}
			if bad.requests.Load() == 0 {
				t.Error("no request went to the bad instance: nothing was proven")
			}
		})
	}

	t.Run("connection refused", func(t *testing.T) {
		t.Parallel()

		conn := load.Dial(t, harness.Outbound(t, harness.FreeAddress(t), load.StartApp(t, "good", "").Address).Outbound)
		if answered := shares(t, conn, 400); answered["good"] != 400 {
			t.Errorf("answered by %v", answered)
		}
	})
}

// A request body that has been sent in part is replayed as a whole.
func TestABufferedRequestIsReplayed(t *testing.T) {
	t.Parallel()

	// It refuses only after it has seen DATA.
	var seen atomic.Int64
	bad := rawh2.Serve(t, func(conn *rawh2.Conn) {
		for {
			frame, err := conn.Read()
			if err != nil {
				return
			}
			if data, is := frame.(*http2.DataFrame); is {
				seen.Add(1)
				_ = conn.Reset(data.StreamID, http2.ErrCodeRefusedStream)
			}
		}
	})
	good := load.StartApp(t, "good", "")
	conn := load.Dial(t, harness.Outbound(t, bad, good.Address).Outbound)

	request := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 10_000)}}
	for range 50 {
		answer, err := testpb.NewTestServiceClient(conn).UnaryCall(t.Context(), request)
		if err != nil || answer.GetUsername() != "good" {
			t.Fatalf("answered by %q, %v", answer.GetUsername(), err)
		}
	}
	if seen.Load() == 0 {
		t.Error("no request went to the bad instance: nothing was proven")
	}
}

// What an instance may have processed is never sent twice.
func TestWhatMayHaveBeenProcessedIsNotRepeated(t *testing.T) {
	t.Parallel()

	for name, spoiled := range map[string]struct {
		code  codes.Code
		spoil func(conn *rawh2.Conn, stream uint32) bool
	}{
		"reset": {codes.Internal, func(conn *rawh2.Conn, stream uint32) bool {
			return conn.Reset(stream, http2.ErrCodeInternal) == nil
		}},
		"connection closed": {codes.Unavailable, func(*rawh2.Conn, uint32) bool { return false }},
		"status UNAVAILABLE": {codes.Unavailable, func(conn *rawh2.Conn, stream uint32) bool {
			return conn.Headers(stream, true, rawh2.Field(":status", "200"),
				rawh2.Field("content-type", "application/grpc"), rawh2.Field("grpc-status", "14")) == nil
		}},
		"refused after headers": {codes.Unavailable, func(conn *rawh2.Conn, stream uint32) bool {
			_ = conn.Headers(stream, false, rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"))

			return conn.Reset(stream, http2.ErrCodeRefusedStream) == nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			const rpcs = 40

			one, two := startSpoiler(t, spoiled.spoil), startSpoiler(t, spoiled.spoil)
			// grpc-go itself would repeat what was refused.
			conn := load.Dial(t, harness.Outbound(t, one.address, two.address).Outbound, grpc.WithDisableRetry())
			for range rpcs {
				if _, err := load.Who(t.Context(), conn); status.Code(err) != spoiled.code {
					t.Fatalf("got %v, want %v", err, spoiled.code)
				}
			}
			if sent := one.requests.Load() + two.requests.Load(); sent > rpcs {
				t.Errorf("%d RPCs became %d requests", rpcs, sent)
			}
		})
	}
}

// Where all refuse, the attempts have an end.
func TestRefusalsByAllEnd(t *testing.T) {
	t.Parallel()

	refuse := func(conn *rawh2.Conn, stream uint32) bool {
		return conn.Reset(stream, http2.ErrCodeRefusedStream) == nil
	}
	one, two := startSpoiler(t, refuse), startSpoiler(t, refuse)

	client := rawh2.Dial(t, harness.Outbound(t, one.address, two.address).Outbound)
	if err := client.Headers(1, true, rawh2.Request(harness.RouteService, unaryCall)...); err != nil {
		t.Fatal(err)
	}
	answer, err := client.Await(1)
	if err != nil {
		t.Fatal(err)
	}
	refused := answer.WasReset && answer.Reset == http2.ErrCodeRefusedStream
	if !refused && answer.Status() != "14" {
		t.Errorf("got %+v", answer)
	}
	if sent := one.requests.Load() + two.requests.Load(); sent < 2 || sent > 20 {
		t.Errorf("%d attempts", sent)
	}
}
