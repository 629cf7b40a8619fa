package relay

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Who speaks no gRPC gets a plain HTTP answer, once the request has ended.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status, message string
		fields          []string
	}{
		{"415", "This port carries gRPC only", []string{":method", "POST", ":scheme", "http", ":path", "/a.B/C", "content-type", "application/json"}},
		{"415", "This port carries gRPC only", []string{":method", "GET", ":scheme", "http", ":path", "/"}},
		{"405", "This port carries gRPC only", []string{":method", "PUT", ":scheme", "http", ":path", "/a.B/C", "content-type", "application/grpc"}},
		{"431", "The request's headers are larger", []string{":method", "POST", ":scheme", "http", ":path", "/a.B/C", "content-type", "application/grpc", "x", strings.Repeat("x", 40<<10), "y", strings.Repeat("y", 40<<10)}},
	} {
		t.Run(c.status, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{})
				r.Headers(1, false, c.fields...)
				r.Data(1, make([]byte, 50000), false)
				r.Want()
				r.Data(1, nil, true)
				got := r.Frames()
				if len(got) < 2 || got[len(got)-2].Get(":status") != c.status || !got[len(got)-1].End ||
					!strings.HasPrefix(string(got[len(got)-1].Data), c.message) {
					t.Fatalf("the caller got %v", got)
				}
				if allow := got[len(got)-2].Get("allow"); (allow == "POST") != (c.status == "405") {
					t.Errorf("allow is %q", allow) // RFC 9110 section 15.5.6
				}
				r.logged(map[string]any{"http_status": c.status, "flag": "DPE", "attempts": 0})

				r.Headers(3, true, c.fields...)
				if lines := r.Lines(); len(lines) != 2 || lines[0] != "HEADERS 3 :status="+c.status {
					t.Errorf("the caller got %q", lines)
				}
			})
		})
	}
}

func TestACallerThatNeverEndsARefusedRequest(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.Headers(1, false, ":method", "GET", ":scheme", "http", ":path", "/")
		r.Want()
		r.Reset(1, http2.ErrCodeCancel)
		r.Want()
		r.logged(map[string]any{"status": "CANCELLED", "flag": "DC"})
	})
}

func TestMalformedTimeout(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.Request(1, "/a.B/C", true, "grpc-timeout", "soon")
		r.Want(`HEADERS 1 :status=200 grpc-status=13 grpc-message=grpc-timeout "soon": want* end`)
		r.logged(map[string]any{"status": "INTERNAL", "flag": "DPE", "attempts": 0})
	})
}

func TestTimeoutTwice(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.Request(1, "/a.B/C", true, "grpc-timeout", "1S", "x", "y", "grpc-timeout", "1S")
		r.Want(`HEADERS 1 :status=200 grpc-status=13 grpc-message=grpc-timeout stands there more than once* end`)
		r.logged(map[string]any{"status": "INTERNAL", "flag": "DPE", "attempts": 0})
	})
}

func TestNoDestination(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.router.dest = nil
		r.Request(1, "/a.B/C", true)
		r.Want("HEADERS 1 :status=200 grpc-status=12 grpc-message=no way to greeter/a.B/C pillion-flags=NR end")
		r.logged(map[string]any{"status": "UNIMPLEMENTED", "flag": "NR", "service": "", "instance": ""})
		if n := metric(t, r.counters, "pillion_rpc_failures_total", "service", "", "flag", "NR"); n != 1 {
			t.Errorf("%v failures without a route are counted, want 1", n)
		}
	})
}

// What comes of a request while its destination is looked up is kept, and the
// caller's window with it.
func TestWaitsForTheDestination(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.router.pending = true
		r.Request(1, "/a.B/C", false)
		r.Message(1, 50000, false)
		if n := credit(r.Peer, 1); n != 0 {
			t.Errorf("%d bytes were given back, want none yet", n)
		}
		a := r.net.Listen("a:1")
		r.router.settle(r.cluster)
		if n := credit(r.Peer, 1); n > 50005 || n <= 50005-step {
			t.Errorf("%d bytes were given back, want all", n)
		}
		if n := len(data(a.Conn().Frames())); n != 50005 {
			t.Errorf("the instance got %d bytes", n)
		}
	})
}

func TestCancelledWhileRouting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.router.pending = true
		r.Request(1, "/a.B/C", true)
		r.Reset(1, http2.ErrCodeCancel)
		r.Want()
		r.Request(3, "/a.B/D", true) // in the same memory, perhaps
		r.net.Listen("a:1")
		r.router.settle(r.cluster)
		r.net.Listen("a:1").Conns()
		r.records()
		if n := r.counts.Attempts.Load(); n != 1 {
			t.Errorf("%d attempts, want that of the second RPC alone", n)
		}
	})
}

func TestTooManyWaitForTheDestination(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.router.pending, r.router.full = true, true
		r.Request(1, "/a.B/C", true)
		r.Want("HEADERS 1 :status=200 grpc-status=8 grpc-message=too many RPCs wait for their destination to be looked up pillion-flags=OM end")
	})
}

// A cancel reaches the instance with the caller's own code.
func TestCancels(t *testing.T) {
	for _, c := range []struct {
		code   http2.ErrCode
		passed string
	}{
		{http2.ErrCodeCancel, "CANCEL"},
		{http2.ErrCodeInternal, "INTERNAL_ERROR"},
		{http2.ErrCodeNo, "CANCEL"},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{})
				in := r.ask(r.net.Listen("a:1"), 1, false)
				r.Reset(1, c.code)
				in.Want("RST_STREAM 1 " + c.passed)
				r.Want()
				r.logged(map[string]any{"status": "CANCELLED", "flag": "DC", "instance": "a:1"})
			})
		})
	}
}

func TestCallersConnectionEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		r.Close()
		in.Want("RST_STREAM 1 CANCEL")
		r.logged(map[string]any{"status": "CANCELLED", "flag": "DC", "message": "the caller's connection ended"})
	})
}

func TestCallerBreaksTheProtocol(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false, "content-length", "3")
		r.Data(1, make([]byte, 10), false)
		in.Want("RST_STREAM 1 CANCEL")
		r.Want("RST_STREAM 1 PROTOCOL_ERROR")
		r.logged(map[string]any{"status": "INTERNAL", "flag": "DPE"})
	})
}

func TestCancelledWhileConnecting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		a.Silent = true
		r.Request(1, "/a.B/C", true)
		in := a.Conn()
		r.Reset(1, http2.ErrCodeCancel)
		r.Want()
		in.Settings()
		in.Want()
		r.logged(map[string]any{"status": "CANCELLED", "instance": "a:1"})
	})
}

// endFirst ends the caller's connection while the engine is about to hand a
// request over, as the failure of a write may at any time.
type endFirst struct {
	*RPC
	conn *h2.Conn
}

func (e endFirst) OnHeaders(b *h2.Batch, s *h2.Stream, gen uint32, h *h2.Head, end bool) {
	var other h2.Batch
	e.conn.Abort(&other, h2.NoError, "")
	other.Done()
	e.RPC.OnHeaders(b, s, gen, h, end)
}

type endsFirst struct{ callers }

func (e endsFirst) NewStream(c *h2.Conn) *h2.Stream {
	r := newRPC(e.Proxy)
	r.down.Init(endFirst{r, c})
	return &r.down
}

func TestCallersConnectionEndsBeforeTheRequestIsHandedOver(t *testing.T) {
	simulated(t, func(t *testing.T) {
		metrics := telemetry.NewMetrics(telemetry.Outbound)
		r := newRig(t, options{Config: Config{Metrics: metrics}})
		a := r.net.Listen("a:1")
		caller := r.callerOf(endsFirst{callers{r.proxy}})
		caller.Request(1, "/a.B/C", false)
		caller.Lines()
		for _, in := range a.Conns() {
			in.Want() // nobody would ever end it
		}
		r.logged(map[string]any{"status": "CANCELLED", "flag": wire.FlagDownstreamDisconnect.String()})
		if n := r.cluster.InFlight(); n != 0 {
			t.Errorf("%d RPCs are in flight", n)
		}
	})
}

// A request that is refused is waited for to its end, but not for ever.
func TestRefusedRequestThatNeverEnds(t *testing.T) {
	for patience, want := range map[time.Duration]time.Duration{0: 5 * time.Second, time.Minute: time.Minute} {
		t.Run(want.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{RefusalTimeout: patience}})
				r.Headers(1, false, ":method", "POST", ":scheme", "http", ":path", "/a.B/C", "content-type", "application/json")
				time.Sleep(want - time.Millisecond)
				r.Want()
				time.Sleep(2 * time.Millisecond)
				r.Want("HEADERS 1 :status=415*", "DATA 1 *end", "RST_STREAM 1 NO_ERROR")
			})
		})
	}
}
