package relay

import (
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Where policies have all instances left alone, the caller is told by which and why;
// statuses count wherever they come.
func TestNoInstanceIsLeftByPolicy(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		r.cluster.Configure(&upstream.Policy{
			Breaker:         &breaker.Trip{ConsecutiveFailures: 2, OpenFor: 5 * time.Second, Probes: 1},
			BreakerFailures: wire.CodesOf(codes.Unavailable), BreakerPolicy: "fuse",
		})
		r.Request(1, "/a.B/C", true)
		a.Conn().TrailersOnly(1, "14")
		r.Lines()
		r.Request(3, "/a.B/C", true)
		r.Lines() // the request has arrived
		a.Conn().Response(3)
		a.Conn().Message(3, 1, false)
		a.Conn().Trailers(3, "14")
		r.Lines()
		r.Request(5, "/a.B/C", true)
		r.Want(`HEADERS 5 :status=200 grpc-status=14 grpc-message=service "greeter": none of the 1 instances can be used: a:1 is broken by policy "fuse": its circuit breaker is open for 5s more: 2 failures in a row pillion-flags=UH end`)
		time.Sleep(5 * time.Second)
		r.Request(7, "/a.B/C", true) // the probe
		r.Request(9, "/a.B/C", true)
		r.Want(`HEADERS 9 :status=200 grpc-status=14 grpc-message=service "greeter": none of the 1 instances can be used: a:1 is broken by policy "fuse": its circuit breaker is half-open: 1 probes under way, 0 have succeeded pillion-flags=UH end`)
		a.Conn().TrailersOnly(5, "0")
		r.Want("HEADERS 7 :status=200 grpc-status=0 end")
		r.Request(11, "/a.B/C", true)
		r.Lines()
		a.Conn().TrailersOnly(7, "0")
		r.Want("HEADERS 11 :status=200 grpc-status=0 end")
	})
}

// Failures in trailers, after messages, have an instance ejected, and RPCs go to the
// other of two.
func TestEjectedByTrailers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		r.cluster.Configure(&upstream.Policy{Balance: balance.Options{Policy: balance.ByDefault}, Ejection: &outlier.Config{
			Policy: "eject", Interval: 10 * time.Second, BaseTime: 30 * time.Second, MaxTime: 300 * time.Second, MaxPercent: 50,
			Failures: wire.CodesOf(codes.Unavailable), ConsecutiveFailures: 3,
		}})
		r.Request(1, "/a.B/C", true)
		r.Lines()
		for n := range uint32(3) {
			id := 1 + 2*n
			if n > 0 {
				r.Request(id, "/a.B/C", true)
				r.Lines()
			}
			a.Conn().Response(id)
			a.Conn().Message(id, 10, false)
			a.Conn().Trailers(id, "14")
			r.Lines()
		}
		r.Request(7, "/a.B/C", true)
		r.Lines()
		b.Conn().TrailersOnly(1, "0")
		r.Want("HEADERS 7 :status=200 grpc-status=0 end")
	})
}

// An answer that is no gRPC and that a policy has cut short, to send the RPC again, is a
// failure of the instance's like any other.
func TestJudgedByAnAnswerThatWasCutShort(t *testing.T) {
	for name, give := range map[string]func(*policed){
		"retried": func(p *policed) { p.retry = retryPolicy() },
		"hedged":  func(p *policed) { p.hedging = hedgingPolicy() },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 2, Config: Config{Random: even}})
				hosts := r.listen(2)
				r.cluster.Configure(&upstream.Policy{
					Balance: balance.Options{Policy: balance.ByDefault},
					Breaker: &breaker.Trip{ConsecutiveFailures: 1}, BreakerFailures: wire.CodesOf(codes.Unavailable), BreakerPolicy: "fuse",
				})
				under := r.under(give)
				under.Request(1, "/a.B/C", true)
				_, caller, _ := under.play(hosts, func(p *scriptpeer.Peer, id uint32) {
					p.Headers(id, false, ":status", "503", "content-type", "text/html")
				}, answers("0"))
				expect(t, "the caller got", caller, []string{answered})
				broken := 0
				for _, in := range r.cluster.Status().Instances {
					if in.Blocked&upstream.Broken != 0 || in.Breaker.State == breaker.HalfOpen {
						broken++
					}
				}
				if broken != 1 {
					t.Errorf("%d instances are left alone, want the one that answered 503", broken)
				}
			})
		})
	}
}

// What the sidecar beside an instance refuses by access rules tells nothing of the
// instance, whatever counts as a failure.
func TestAccessDeniedIsNoFailure(t *testing.T) {
	for flag, broken := range map[string]bool{"UAEX": false, "": true} {
		t.Run(flag, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{})
				a := r.net.Listen("a:1")
				r.cluster.Configure(&upstream.Policy{
					Breaker: &breaker.Trip{ConsecutiveFailures: 1}, BreakerPolicy: "fuse",
					BreakerFailures: wire.CodesOf(codes.PermissionDenied, codes.Unavailable),
				})
				for i, code := range []string{"7", "14"} {
					r.Request(uint32(2*i+1), "/a.B/C", true)
					r.Lines()
					if i > 0 && broken {
						break
					}
					a.Conn().TrailersOnly(uint32(2*i+1), code, "pillion-flags", flag)
					r.Want("HEADERS " + strconv.Itoa(2*i+1) + " :status=200 grpc-status=" + code + " pillion-flags=" + flag + " end")
				}
				if got := r.cluster.Status().Instances[0].Blocked&upstream.Broken != 0; got != broken {
					t.Errorf("the instance is broken: %v, want %v", got, broken)
				}
			})
		})
	}
}
