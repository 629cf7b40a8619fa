package relay

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestUnary(t *testing.T) {
	simulated(t, func(t *testing.T) {
		metrics := telemetry.NewMetrics(telemetry.Outbound)
		r := newRig(t, options{Config: Config{Metrics: metrics}})
		a := r.net.Listen("a:1")
		r.Request(1, "/a.B/C", false, "x-bin", "AQI", "x", "1", "x", "2")
		in := a.Conn()
		got := in.Frames()
		if len(got) != 1 || got[0].End {
			t.Fatalf("the instance got %v", got)
		}
		var names []string
		for _, f := range got[0].Fields {
			names = append(names, f.Name+"="+f.Value)
		}
		if want := []string{
			":method=POST", ":scheme=http", ":path=/a.B/C", ":authority=greeter",
			"content-type=application/grpc", "te=trailers", "x-bin=AQI", "x=1", "x=2",
		}; !slices.Equal(names, want) {
			t.Errorf("the instance got %q, want %q", names, want)
		}
		r.Message(1, 100, true)
		in.Want("DATA 1 105 end")
		in.Response(1, "y", "1")
		in.Message(1, 10, false)
		in.Message(1, 20, false)
		time.Sleep(40 * time.Millisecond)
		in.Trailers(1, "0", "z-bin", "AQI", "grpc-status-details-bin", "AAAA")
		r.Want("HEADERS 1 :status=200", "DATA 1 15", "DATA 1 25", "HEADERS 1 grpc-status=0 grpc-status-details-bin=AAAA end")
		in.Want()
		r.logged(map[string]any{
			"side": "outbound", "peer": "caller", "authority": "greeter", "path": "/a.B/C", "service": "greeter",
			"route": "test", "instance": "a:1", "attempts": 1, "status": "OK", "message": "", "flag": "", "http_status": 200,
			"duration_ms": 40, "upstream_duration_ms": 40,
			"request_messages": 1, "response_messages": 2, "request_bytes": 105, "response_bytes": 40,
		})
		for name, want := range map[string]float64{
			"grpc_client_started_total": 1, "grpc_client_handled_total": 1, "grpc_client_msg_sent_total": 1,
			"grpc_client_msg_received_total": 2, "grpc_client_handling_seconds": 1,
		} {
			if got := metric(t, metrics, name, "grpc_method", "C", "grpc_service", "a.B"); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
			if got := metric(t, metrics, name, "grpc_method", "other"); got != 0 {
				t.Errorf("%s of other methods is %v, want 0", name, got)
			}
		}
	})
}

func TestInboundCountsAsServer(t *testing.T) {
	simulated(t, func(t *testing.T) {
		metrics := telemetry.NewMetrics(telemetry.Inbound)
		r := newRig(t, options{Config: Config{Metrics: metrics, Side: telemetry.Inbound}})
		a := r.net.Listen("a:1")
		for id := uint32(1); id < 6; id += 2 { // known after the first
			in := r.ask(a, id, false)
			r.Message(id, 1, false)
			r.Message(id, 1, true)
			in.Response(id)
			in.Message(id, 1, false)
			in.Trailers(id, "5")
			r.Frames()
			in.Frames()
		}
		for name, want := range map[string]float64{
			"grpc_server_started_total": 3, "grpc_server_msg_received_total": 6, "grpc_server_msg_sent_total": 3,
		} {
			if got := metric(t, metrics, name, "grpc_method", "C"); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if got := metric(t, metrics, "grpc_server_handled_total", "grpc_method", "C", "grpc_code", "NotFound"); got != 3 {
			t.Errorf("%v RPCs ended NotFound, want 3", got)
		}
	})
}

func TestStreamingBothWays(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		in.Response(1)
		r.Want("HEADERS 1 :status=200")
		for range 3 {
			r.Message(1, 5, false)
			in.Want("DATA 1 10")
			in.Message(1, 7, false)
			r.Want("DATA 1 12")
		}
		r.Data(1, nil, true) // half-close
		in.Want("DATA 1 0 end")
		in.Message(1, 7, false)
		r.Want("DATA 1 12")
		in.Trailers(1, "0")
		r.Want("HEADERS 1 grpc-status=0 end")
	})
}

// The caller's last frame may be trailers, which end the request.
func TestRequestTrailers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		r.Headers(1, true, "x", "y")
		in.Want("DATA 1 0 end")
	})
}

func TestTrailersOnly(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.TrailersOnly(1, "7", "grpc-message", "n%C3%B6", "grpc-status-details-bin", "AAAA")
		r.Want("HEADERS 1 :status=200 grpc-status=7 grpc-message=n%C3%B6 grpc-status-details-bin=AAAA end")
		r.logged(map[string]any{"status": "PERMISSION_DENIED", "message": "nö", "flag": ""})
	})
}

// An answer that comes before the request has ended: the caller learns the
// status, then that nobody wants the rest; and so does the instance.
func TestEarlyStatus(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		in.TrailersOnly(1, "16")
		r.Want("HEADERS 1 :status=200 grpc-status=16 end", "RST_STREAM 1 NO_ERROR")
		in.Want("RST_STREAM 1 NO_ERROR")
		r.Message(1, 10, true) // was on its way
		in.Want()
		r.logged(map[string]any{"status": "UNAUTHENTICATED", "flag": ""})
	})
}

func TestInformationalResponses(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Headers(1, false, ":status", "103", "link", "x")
		in.Headers(1, false, ":status", "100")
		in.Response(1)
		in.Trailers(1, "0")
		r.Want("HEADERS 1 :status=103", "HEADERS 1 :status=100", "HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end")
	})
}

// What is no gRPC goes through as it is, and counts by its HTTP status.
func TestAnswersThatAreNoGRPC(t *testing.T) {
	for _, c := range []struct{ http, status string }{
		{"503", "UNAVAILABLE"}, {"429", "UNAVAILABLE"}, {"401", "UNAUTHENTICATED"}, {"403", "PERMISSION_DENIED"},
		{"404", "UNIMPLEMENTED"}, {"400", "INTERNAL"}, {"431", "INTERNAL"}, {"500", "UNKNOWN"}, {"200", "UNKNOWN"},
	} {
		t.Run(c.http, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				metrics := telemetry.NewMetrics(telemetry.Outbound)
				r := newRig(t, options{Config: Config{Metrics: metrics}})
				a := r.net.Listen("a:1")
				in := r.ask(a, 1, true)
				in.Headers(1, false, ":status", c.http, "content-type", "text/html")
				in.Data(1, []byte("<html>"), true)
				r.Want("HEADERS 1 :status="+c.http, "DATA 1 6 end")
				r.logged(map[string]any{"status": c.status, "http_status": c.http, "flag": ""})

				in = r.ask(a, 3, true)
				in.Headers(3, true, ":status", c.http)
				r.Want("HEADERS 3 :status=" + c.http + " end")
				r.logged(map[string]any{"status": c.status, "http_status": c.http})
				// Who is no gRPC server does not say which methods there are.
				if got := metric(t, metrics, "grpc_client_handled_total", "grpc_method", "other"); c.http != "200" && got != 2 {
					t.Errorf("%v RPCs count as other, want 2", got)
				}
			})
		})
	}
}

// A method that the instance does not know gets no label of its own.
func TestUnknownMethodsCountAsOther(t *testing.T) {
	simulated(t, func(t *testing.T) {
		metrics := telemetry.NewMetrics(telemetry.Outbound)
		r := newRig(t, options{Config: Config{Metrics: metrics}})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.TrailersOnly(1, "12")
		r.Want("HEADERS 1 :status=200 grpc-status=12 end")
		if got := metric(t, metrics, "grpc_client_started_total", "grpc_method", "other"); got != 1 {
			t.Errorf("%v RPCs count as other, want 1", got)
		}
		if got := metric(t, metrics, "grpc_client_started_total"); got != 1 {
			t.Errorf("%v RPCs are counted, want 1", got)
		}
	})
}

func TestMessagesOfAnySizeGoThroughUnchanged(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{http2: bigWindows})
		in := r.ask(r.net.Listen("a:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}), 1, false)
		in.Window(0, 1<<30)
		r.Window(0, 1<<30)
		r.Window(1, 1<<30)
		body := make([]byte, 3<<20)
		for i := range body {
			body[i] = byte(i * 7)
		}
		message := scriptpeer.Message(body)
		r.Data(1, message, true)
		if got := data(in.Frames()); !bytes.Equal(got, message) {
			t.Errorf("the instance got %d bytes, or not the same as were sent", len(got))
		}
		in.Response(1)
		in.Data(1, message, false)
		if got := data(r.Frames()); !bytes.Equal(got, message) {
			t.Errorf("the caller got %d bytes, or not the same as were sent", len(got))
		}
		in.Trailers(1, "0")
		r.Want("HEADERS 1 grpc-status=0 end")
		r.logged(map[string]any{"request_messages": 1, "response_messages": 1, "request_bytes": float64(3<<20 + 5)})
	})
}

// An app has no say in what is Pillion's own; a sidecar has.
func TestShield(t *testing.T) {
	for _, shield := range []bool{true, false} {
		t.Run(map[bool]string{true: "app", false: "sidecar"}[shield], func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Shield: shield}})
				flags := map[bool]string{true: "", false: " pillion-flags=NR"}[shield]
				a := r.net.Listen("a:1")
				in := r.ask(a, 1, true)
				in.TrailersOnly(1, "12", wire.HeaderFlags, "NR")
				r.Want("HEADERS 1 :status=200 grpc-status=12" + flags + " end")
				in = r.ask(a, 3, true)
				in.Response(3, wire.HeaderFlags, "NR")
				in.Trailers(3, "12", wire.HeaderFlags, "NR")
				r.Want("HEADERS 3 :status=200"+flags, "HEADERS 3 grpc-status=12"+flags+" end")
			})
		})
	}
}

// data joins the DATA frames' payloads.
func data(frames []*scriptpeer.Frame) (all []byte) {
	for _, f := range frames {
		all = append(all, f.Data...)
	}
	return all
}
