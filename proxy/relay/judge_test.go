package relay

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// What instances are told of how attempts ended, by an ejection of who fails once.
func TestInstancesAreJudgedByTheirAttempts(t *testing.T) {
	again := func(p *policed) { p.retry = retryPolicy() }
	hedged := func(p *policed) { p.hedging = hedgingPolicy() }
	for _, c := range []struct {
		name    string
		give    func(*policed) // default: no policy
		request []string
		script  []reaction
		cancel  time.Duration // when the caller does; 0: it does not
		ejected []string
	}{
		{name: "an answer", script: []reaction{answers("0")}},
		{name: "a failure", script: []reaction{answers("14")}, ejected: []string{"a:1"}},
		{name: "a failure in trailers", script: []reaction{fails("14")}, ejected: []string{"a:1"}},
		{name: "the client's fault", script: []reaction{answers("3")}},
		{name: "a reset", script: []reaction{resets(http2.ErrCodeInternal)}, ejected: []string{"a:1"}},
		{name: "a connection that ends", script: []reaction{func(p *scriptpeer.Peer, _ uint32) { p.Close() }}, ejected: []string{"a:1"}},
		{name: "what was refused, and not processed", script: []reaction{resets(http2.ErrCodeRefusedStream), answers("0")}},
		{name: "a sidecar without its app, which is left alone for that", script: []reaction{answers("14", "pillion-flags", "UF"), answers("0")}},
		{name: "an overloaded sidecar", script: []reaction{answers("14", "pillion-flags", "OM"), answers("0")}},
		{name: "a sidecar's rate limit", script: []reaction{answers("8", "pillion-flags", "RL")}},
		{name: "a sidecar's breaker", script: []reaction{answers("14", "pillion-flags", "UO")}},
		{name: "the deadline", request: []string{"grpc-timeout", "100m"}, script: []reaction{silent}, ejected: []string{"a:1"}},
		{name: "the caller's will", script: []reaction{silent}, cancel: 50 * time.Millisecond},
		{name: "what is retried", give: again, script: []reaction{answers("14"), answers("0")}, ejected: []string{"a:1"}},
		{name: "what is not retried any more", give: again, script: []reaction{answers("14"), answers("5")}, ejected: []string{"a:1"}},
		{name: "a timeout", give: func(p *policed) {
			again(p)
			gives(20*time.Millisecond, 0, 0)(p)
		}, script: []reaction{silent}, ejected: []string{"a:1"}},
		{name: "a hedge that lost", give: hedged, script: []reaction{silent, answers("0")}},
		{name: "one that failed", give: hedged, script: []reaction{answers("14"), answers("0")}, ejected: []string{"a:1"}},
		{name: "the deadline of all copies", give: func(p *policed) {
			p.hedging = hedgingPolicy(func(p *retry.Hedging) { p.MaxAttempts = 2 })
		}, request: []string{"grpc-timeout", "100m"}, script: []reaction{silent, silent}, ejected: []string{"a:1", "b:1"}},
		{name: "an idle stream", give: gives(0, time.Second, 0), script: []reaction{func(p *scriptpeer.Peer, id uint32) { p.Response(id) }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 3, Config: Config{Random: even}, upstream: upstream.Options{BackoffBase: time.Hour}})
				r.cluster.Configure(&upstream.Policy{Balance: balance.Options{Policy: balance.ByDefault}, Ejection: &outlier.Config{
					Policy: "strict", Interval: time.Second, BaseTime: time.Hour, MaxTime: time.Hour, MaxPercent: 100, ConsecutiveFailures: 1,
					Failures: wire.CodesOf(codes.Unavailable, codes.Internal, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled),
				}})
				give := c.give
				if give == nil {
					give = func(*policed) {}
				}
				under := r.under(give)
				hosts := r.listen(3)
				under.Request(1, "/a.B/C", true, c.request...)
				if c.cancel > 0 {
					time.AfterFunc(c.cancel, func() { under.Reset(1, http2.ErrCodeCancel) })
				}
				under.play(hosts, c.script...)
				var ejected []string
				for _, in := range r.cluster.Status().Instances {
					if in.Blocked&upstream.Ejected != 0 {
						ejected = append(ejected, in.Endpoint.Address)
					}
				}
				expect(t, "the instances that are ejected", ejected, c.ejected)
			})
		})
	}
}
