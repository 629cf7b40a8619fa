package relay

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// Large header lists are kept until the RPC is answered, so they count against the
// budget: for large values, and for many fields that take next to nothing on the
// wire.
func TestBudgetOfHeaders(t *testing.T) {
	const fields = 160 // which take 7 KB, and far more of the collector's time
	many := make([]string, 0, 2*fields)
	for range fields {
		many = append(many, "accept-encoding", "gzip, deflate") // an octet each (RFC 7541 appendix A)
	}
	for name, fields := range map[string][]string{
		"large": {"x", strings.Repeat("v", 40_000)},
		"many":  many,
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{budget: 130_000, http2: h2.Config{MaxHeaderListSize: 1 << 20}})
				in := r.net.Listen("a:1")
				for i := range 5 {
					r.Request(uint32(1+2*i), "/a.B/C", true, fields...)
					synctest.Wait()
				}
				if n := r.proxy.cfg.Budget.Used(); n < 80_000 {
					t.Errorf("%d bytes are counted", n)
				}
				refused := 0
				for _, f := range r.Frames() {
					if f.Get("pillion-flags") == "OM" && f.Get("grpc-status") == "8" {
						refused++
					}
				}
				if refused != 3 {
					t.Errorf("%d of 5 RPCs were refused, want 3", refused)
				}
				for i := range 2 {
					in.Conn().TrailersOnly(uint32(1+2*i), "0")
				}
				r.Want("HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
				if n := r.proxy.cfg.Budget.Used(); n != 0 {
					t.Errorf("%d bytes are counted once all is answered", n)
				}
			})
		})
	}
}

// An ordinary RPC does not touch the budget for its headers.
func TestOrdinaryHeadersAreFree(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{budget: 1})
		in := r.net.Listen("a:1")
		var fields []string
		for i := range 20 {
			fields = append(fields, fmt.Sprint("x-", i), strings.Repeat("v", 100))
		}
		r.Request(1, "/a.B/C", true, fields...)
		in.Conn().TrailersOnly(1, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end")
	})
}
