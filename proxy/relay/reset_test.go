package relay

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// A reset of the instance's becomes a status, as long as the caller got no half
// message.
func TestResetsOfTheInstance(t *testing.T) {
	for _, c := range []struct {
		code   http2.ErrCode
		status string
		name   string
	}{
		{http2.ErrCodeNo, "13", "INTERNAL"},
		{http2.ErrCodeProtocol, "13", "INTERNAL"},
		{http2.ErrCodeInternal, "13", "INTERNAL"},
		{http2.ErrCodeFlowControl, "13", "INTERNAL"},
		{http2.ErrCodeStreamClosed, "13", "INTERNAL"},
		{http2.ErrCodeFrameSize, "13", "INTERNAL"},
		{http2.ErrCodeRefusedStream, "14", "UNAVAILABLE"},
		{http2.ErrCodeCancel, "1", "CANCELLED"},
		{http2.ErrCodeCompression, "13", "INTERNAL"},
		{http2.ErrCodeConnect, "13", "INTERNAL"},
		{http2.ErrCodeEnhanceYourCalm, "8", "RESOURCE_EXHAUSTED"},
		{http2.ErrCodeInadequateSecurity, "7", "PERMISSION_DENIED"},
		{http2.ErrCodeHTTP11Required, "13", "INTERNAL"},
		{77, "13", "INTERNAL"},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Retry: Retry{MaxAttempts: 1}}})
				a := r.net.Listen("a:1")
				in := r.ask(a, 1, true)
				in.Reset(1, c.code)
				r.Want("HEADERS 1 :status=200 grpc-status=" + c.status +
					" grpc-message=service \"greeter\", instance a:1: it reset the stream with * pillion-flags=UR end")
				r.logged(map[string]any{"status": c.name, "flag": "UR", "instance": "a:1"})

				// After headers and whole messages: trailers.
				in = r.ask(a, 3, true)
				in.Response(3)
				in.Message(3, 10, false)
				in.Reset(3, c.code)
				r.Want("HEADERS 3 :status=200", "DATA 3 15", "HEADERS 3 grpc-status="+c.status+"* pillion-flags=UR end")

				// In the middle of a message: a reset, of a kind that does not
				// mislead the caller.
				in = r.ask(a, 5, true)
				in.Response(5)
				in.Data(5, []byte{0, 0, 0, 0, 10, 1}, false)
				in.Reset(5, c.code)
				code := c.code
				if code == http2.ErrCodeNo || code == http2.ErrCodeRefusedStream {
					code = http2.ErrCodeInternal
				}
				want := code.String()
				if code == 77 {
					want = "*"
				}
				r.Want("HEADERS 5 :status=200", "DATA 5 6", "RST_STREAM 5 "+want)
				if n := r.failures(wire.FlagUpstreamReset); n != 3 {
					t.Errorf("%d failures are counted, want 3", n)
				}
			})
		})
	}
}

func TestInstancesConnectionEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		in.Close()
		r.Want(`HEADERS 1 :status=200 grpc-status=14 grpc-message=service "greeter", instance a:1: the connection ended: EOF pillion-flags=UC end`)

		in = r.ask(a, 3, true)
		in.Response(1) // the first stream of another connection
		in.Message(1, 10, false)
		r.Want("HEADERS 3 :status=200", "DATA 3 15")
		in.Close()
		r.Want("HEADERS 3 grpc-status=14* pillion-flags=UC end")

		in = r.ask(a, 5, true)
		in.Response(1)
		in.Data(1, []byte{0, 0, 0, 0, 10, 1}, false)
		r.Want("HEADERS 5 :status=200", "DATA 5 6")
		in.Close()
		r.Want("RST_STREAM 5 INTERNAL_ERROR")

		in = r.ask(a, 7, true)
		in.GoAway(1, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
		in.Close()
		r.Want("HEADERS 7 :status=200 grpc-status=14* pillion-flags=UC end")
		r.records()
	})
}

func TestInstanceBreaksTheProtocol(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Data(1, []byte("x"), false) // before a header section
		r.Want("HEADERS 1 :status=200 grpc-status=13* pillion-flags=UPE end")
		in.Want("RST_STREAM 1 PROTOCOL_ERROR")
	})
}

// A reset that follows a complete answer changes nothing.
func TestResetAfterTheAnswer(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		in.Response(1)
		in.Trailers(1, "0")
		in.Reset(1, http2.ErrCodeNo)
		r.Want("HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end", "RST_STREAM 1 NO_ERROR")
		r.logged(map[string]any{"status": "OK", "flag": ""})
	})
}
