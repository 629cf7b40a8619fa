package relay

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func retryPolicy(change ...func(*retry.Policy)) *retry.Policy {
	p := &retry.Policy{
		Name: "again", MaxAttempts: 4, Codes: wire.CodesOf(codes.Unavailable),
		InitialBackoff: 10 * time.Millisecond, MaxBackoff: 30 * time.Millisecond, Multiplier: 2,
		BufferBytes: 1000,
	}
	for _, c := range change {
		c(p)
	}
	return p
}

const answered = "HEADERS 1 :status=200 grpc-status=0 end"

// gRFC A6, rule by rule. All waits are those of the policy: 10ms, 20ms, 30ms.
func TestRetryPolicy(t *testing.T) {
	unavailable := answers("14", "grpc-message", "gone")
	failure := "HEADERS 1 :status=200 grpc-status=14 grpc-message=gone end"
	for _, c := range []struct {
		name     string
		policy   *retry.Policy // default: retryPolicy()
		hosts    int           // default: 4
		request  []string
		size     int // of the request's message
		script   []reaction
		attempts []string
		caller   []string
		told     []string
		reason   string
		flag     string
	}{
		{name: "a success is no failure", script: []reaction{answers("0")},
			attempts: []string{"0s a:1"}, caller: []string{answered}},
		{name: "another instance, after a wait", script: []reaction{unavailable, answers("0")},
			attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "the waits grow to their limit, the attempts too", script: []reaction{unavailable, unavailable, unavailable, unavailable},
			attempts: []string{"0s a:1", "10ms b:1 1", "30ms c:1 2", "60ms d:1 3"}, caller: []string{failure}, reason: "attempts", flag: "URX"},
		{name: "the same instance where there is no other", hosts: 1, script: []reaction{unavailable, answers("0")},
			attempts: []string{"0s a:1", "10ms a:1 1"}, caller: []string{answered}},
		{name: "another status", script: []reaction{answers("13")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=13 end"}, reason: "status"},
		{name: "a status nobody knows counts as UNKNOWN", policy: retryPolicy(func(p *retry.Policy) { p.Codes = wire.CodesOf(codes.Unknown) }),
			script: []reaction{answers("77"), answers("0")}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "the second attempt decides by itself", script: []reaction{unavailable, answers("5")},
			attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=5 end"}, reason: "status"},

		{name: "pushback is a wait, after which waits begin anew",
			script:   []reaction{unavailable, answers("14", "grpc-retry-pushback-ms", "500"), unavailable, answers("0")},
			attempts: []string{"0s a:1", "10ms b:1 1", "510ms c:1 2", "520ms d:1 3"}, caller: []string{answered}},
		{name: "pushback of no time", script: []reaction{answers("14", "grpc-retry-pushback-ms", "0"), answers("0")},
			attempts: []string{"0s a:1", "0s b:1 1"}, caller: []string{answered}},
		{name: "pushback below zero", script: []reaction{answers("14", "grpc-retry-pushback-ms", "-1")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=14 grpc-retry-pushback-ms=-1 end"}, reason: "pushback"},
		{name: "pushback that cannot be read", script: []reaction{answers("14", "grpc-retry-pushback-ms", "soon")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=14 grpc-retry-pushback-ms=soon end"}, reason: "pushback"},
		{name: "pushback with another status", script: []reaction{answers("13", "grpc-retry-pushback-ms", "10")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=13 grpc-retry-pushback-ms=10 end"}, reason: "status"},
		{name: "pushback to the last attempt", policy: retryPolicy(func(p *retry.Policy) { p.MaxAttempts = 2 }),
			script:   []reaction{unavailable, answers("14", "grpc-retry-pushback-ms", "10")},
			attempts: []string{"0s a:1", "10ms b:1 1"},
			caller:   []string{"HEADERS 1 :status=200 grpc-status=14 grpc-retry-pushback-ms=10 end"}, reason: "attempts", flag: "URX"},

		{name: "response headers commit", script: []reaction{fails("14")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=14 end"}, reason: "committed"},
		{name: "response headers that are held do not", policy: retryPolicy(func(p *retry.Policy) { p.HoldHeaders = true }),
			script: []reaction{fails("14"), fails("14"), fails("0")}, attempts: []string{"0s a:1", "10ms b:1 1", "30ms c:1 2"},
			caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end"}},
		{name: "with another status they are let go", policy: retryPolicy(func(p *retry.Policy) { p.HoldHeaders = true }),
			script: []reaction{fails("5")}, attempts: []string{"0s a:1"},
			caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=5 end"}, reason: "status"},
		{name: "with a message too, and then commit", policy: retryPolicy(func(p *retry.Policy) { p.HoldHeaders = true }),
			script: []reaction{func(p *scriptpeer.Peer, id uint32) {
				p.Response(id)
				p.Message(id, 10, false)
				p.Trailers(id, "14")
			}}, attempts: []string{"0s a:1"},
			caller: []string{"HEADERS 1 :status=200", "DATA 1 15", "HEADERS 1 grpc-status=14 end"}, reason: "committed"},
		{name: "held headers of an answer that breaks off", policy: retryPolicy(func(p *retry.Policy) { p.HoldHeaders, p.Codes = true, wire.CodesOf(codes.Internal) }),
			script: []reaction{func(p *scriptpeer.Peer, id uint32) {
				p.Response(id)
				p.Reset(id, http2.ErrCodeInternal)
			}, answers("0")}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "the last attempt's headers are not held", policy: retryPolicy(func(p *retry.Policy) { p.HoldHeaders, p.MaxAttempts = true, 2 }),
			script: []reaction{fails("14"), func(p *scriptpeer.Peer, id uint32) { p.Response(id) }}, attempts: []string{"0s a:1", "10ms b:1 1"},
			caller: []string{"HEADERS 1 :status=200"}},

		{name: "a request that just fits", size: 995, script: []reaction{unavailable, answers("0")},
			attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "one that does not commits", size: 996, script: []reaction{unavailable},
			attempts: []string{"0s a:1"}, caller: []string{failure}, reason: "buffer"},

		{name: "no wait beyond the deadline", request: []string{"grpc-timeout", "25m"}, script: []reaction{unavailable, unavailable},
			attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{failure}, reason: "deadline"},

		{name: "too few tokens", policy: retryPolicy(func(p *retry.Policy) {
			p.Limits = retry.NewLimits(nil, &retry.ThrottlingOptions{MaxTokens: 3, TokenRatio: 0.1})
		}), script: []reaction{unavailable, unavailable}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{failure}, reason: "throttled", flag: "URX"},
		{name: "pushback below zero takes a token", policy: retryPolicy(func(p *retry.Policy) {
			p.Limits = retry.NewLimits(nil, &retry.ThrottlingOptions{MaxTokens: 3, TokenRatio: 0.1})
		}), script: []reaction{unavailable, answers("13", "grpc-retry-pushback-ms", "-1")}, attempts: []string{"0s a:1", "10ms b:1 1"},
			caller: []string{"HEADERS 1 :status=200 grpc-status=13 grpc-retry-pushback-ms=-1 end"}, reason: "pushback"},
		{name: "the budget is used up", policy: retryPolicy(func(p *retry.Policy) {
			p.Limits = retry.NewLimits(&retry.BudgetOptions{MinPerSecond: 0.1}, nil)
		}), script: []reaction{unavailable, unavailable}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{failure}, reason: "budget", flag: "URX"},

		{name: "what was not processed is not counted", script: []reaction{resets(http2.ErrCodeRefusedStream), unavailable, unavailable, unavailable, unavailable},
			attempts: []string{"0s a:1", "0s b:1", "10ms c:1 1", "30ms d:1 2", "60ms a:1 3"}, caller: []string{failure}, reason: "attempts", flag: "URX"},
		{name: "a sidecar's refusal is not counted", script: []reaction{answers("14", "pillion-flags", "UF"), unavailable, answers("0")},
			attempts: []string{"0s a:1", "0s b:1", "10ms c:1 1"}, caller: []string{answered}},
		{name: "a reset is its status", script: []reaction{resets(http2.ErrCodeCancel)}, attempts: []string{"0s a:1"},
			caller: []string{"HEADERS 1 :status=200 grpc-status=1 grpc-message=* pillion-flags=UR end"}, reason: "status", flag: "UR"},
		{name: "a reset whose status is in the policy", policy: retryPolicy(func(p *retry.Policy) { p.Codes = wire.CodesOf(codes.Internal) }),
			script: []reaction{resets(http2.ErrCodeInternal), answers("0")}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "reset before headers", policy: retryPolicy(func(p *retry.Policy) { p.ResetBeforeHeaders = true }),
			script: []reaction{resets(http2.ErrCodeInternal), answers("0")}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "reset after headers", policy: retryPolicy(func(p *retry.Policy) { p.ResetBeforeHeaders, p.HoldHeaders = true, true }),
			script: []reaction{func(p *scriptpeer.Peer, id uint32) {
				p.Response(id)
				p.Reset(id, http2.ErrCodeInternal)
			}}, attempts: []string{"0s a:1"},
			caller: []string{"HEADERS 1 :status=200 grpc-status=13 grpc-message=* pillion-flags=UR end"}, reason: "status", flag: "UR"},
		{name: "the connection ends", script: []reaction{func(p *scriptpeer.Peer, _ uint32) { p.Close() }, answers("0")},
			attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}},
		{name: "no gRPC at all", script: []reaction{func(p *scriptpeer.Peer, id uint32) {
			p.Headers(id, false, ":status", "503", "content-type", "text/html")
		}, answers("0")}, attempts: []string{"0s a:1", "10ms b:1 1"}, caller: []string{answered}, told: []string{"0s a:1 CANCEL"}},

		{name: "what the caller's own library did counts", request: []string{"grpc-previous-rpc-attempts", "2"}, script: []reaction{unavailable, answers("0")},
			attempts: []string{"0s a:1 2", "10ms b:1 3"}, caller: []string{answered}},
		{name: "what a caller made up does not", request: []string{"grpc-previous-rpc-attempts", "many"}, script: []reaction{unavailable, answers("0")},
			attempts: []string{"0s a:1 many", "10ms b:1 1"}, caller: []string{answered}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				if c.policy == nil {
					c.policy = retryPolicy()
				}
				if c.hosts == 0 {
					c.hosts = 4
				}
				r := newRig(t, options{instances: c.hosts, Config: Config{Random: even}})
				hosts := r.listen(c.hosts)
				under := r.under(func(p *policed) { p.retry = c.policy })
				under.Request(1, "/a.B/C", c.size == 0, c.request...)
				if c.size > 0 {
					under.Message(1, c.size, true)
				}
				attempts, caller, told := under.play(hosts, c.script...)
				expect(t, "the attempts", lineOf(attempts), c.attempts)
				expect(t, "the caller got", caller, c.caller)
				expect(t, "the instances got", told, c.told)
				if caller[len(caller)-1][len(caller[len(caller)-1])-4:] == " end" {
					r.logged(map[string]any{"retry": c.reason, "flag": c.flag, "attempts": len(attempts)})
				}
			})
		})
	}
}

// What counters say of it.
func TestRetriesAreCounted(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 4, Config: Config{Random: even}})
		hosts := r.listen(4)
		under := r.under(func(p *policed) { p.retry = retryPolicy(func(p *retry.Policy) { p.MaxAttempts = 3 }) })
		under.Request(1, "/a.B/C", true)
		under.play(hosts, resets(http2.ErrCodeRefusedStream), answers("14"), answers("14"), answers("14"))
		r.records()
		if n := r.counts.Retries.Load(); n != 2 {
			t.Errorf("%d retries are counted, want 2", n)
		}
		if n := r.counts.TransparentRetries.Load(); n != 1 {
			t.Errorf("%d transparent retries are counted, want 1", n)
		}
		if n := r.counts.Attempts.Load(); n != 4 {
			t.Errorf("%d attempts are counted, want 4", n)
		}
		if n := metric(t, r.counters, "pillion_retries_refused_total", "reason", "attempts"); n != 1 {
			t.Errorf("%v refusals are counted, want 1", n)
		}
		if n := r.failures(wire.FlagRetryLimit); n != 1 {
			t.Errorf("%v failures by limits are counted, want 1", n)
		}
	})
}

// Nothing was sent where no instance can be reached; by choice that is tried again.
func TestRetryOnConnectFailure(t *testing.T) {
	for _, c := range []struct {
		name  string
		wants bool
		codes wire.CodeSet
		again bool
	}{
		{"not asked for", false, 0, false},
		{"as a condition", true, 0, true},
		{"by its status", false, wire.CodesOf(codes.Unavailable), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Random: even}, upstream: upstream.Options{}})
				under := r.under(func(p *policed) {
					p.retry = retryPolicy(func(p *retry.Policy) {
						p.ConnectFailure, p.Codes = c.wants, c.codes
						p.InitialBackoff, p.MaxBackoff = 5*time.Second, 5*time.Second
					})
				})
				under.Request(1, "/a.B/C", true)
				if !c.again {
					under.Want(`HEADERS 1 :status=200 grpc-status=14 grpc-message=service "greeter": no instance could be reached* pillion-flags=UF end`)
					return
				}
				under.Want()
				a := r.net.Listen("a:1")
				time.Sleep(5 * time.Second)
				a.Conn().Want("HEADERS 1 :path=/a.B/C grpc-previous-rpc-attempts=1 end")
				a.Conn().TrailersOnly(1, "0")
				under.Want(answered)
			})
		})
	}
}

// The caller may go on with its request during the wait, and cancel.
func TestWhileWaitingToSendAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2, Config: Config{Random: even}})
		hosts := r.listen(2)
		under := r.under(func(p *policed) { p.retry = retryPolicy() })
		under.Request(1, "/a.B/C", false)
		under.Message(1, 10, false)
		hosts[0].Conn().Want("HEADERS 1*", "DATA 1 15")
		hosts[0].Conn().TrailersOnly(1, "14")
		hosts[0].Conn().Want("RST_STREAM 1 NO_ERROR")
		under.Message(1, 20, true)
		time.Sleep(10 * time.Millisecond)
		hosts[1].Conn().Want("HEADERS 1*", "DATA 1 40 end")
		hosts[1].Conn().TrailersOnly(1, "14")
		under.Want()
		under.Reset(1, http2.ErrCodeCancel)
		r.logged(map[string]any{"status": "CANCELLED", "flag": "DC", "attempts": 2, "retry": ""})
		hosts[0].Conn().Want()
	})
}

// A request that grows too long during the wait is sent once more, and not again.
func TestTooLongWhileWaitingToSendAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 3, Config: Config{Random: even}})
		hosts := r.listen(3)
		under := r.under(func(p *policed) { p.retry = retryPolicy() })
		under.Request(1, "/a.B/C", false)
		under.Message(1, 500, false)
		hosts[0].Conn().Lines()
		hosts[0].Conn().TrailersOnly(1, "14")
		under.Message(1, 2000, false)
		time.Sleep(10 * time.Millisecond)
		hosts[1].Conn().Want("HEADERS 1*", "DATA 1 2510")
		under.Message(1, 100, true)
		hosts[1].Conn().Want("DATA 1 105 end")
		hosts[1].Conn().TrailersOnly(1, "14")
		under.Want("HEADERS 1 :status=200 grpc-status=14 end")
		r.logged(map[string]any{"retry": "buffer", "flag": ""})
	})
}

// What came of a request while its destination was looked up counts too, though the
// policy's bound was not known when it came.
func TestRequestsThatWaitedAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		want string
	}{
		"fits":     {995, answered},
		"does not": {996, "HEADERS 1 :status=200 grpc-status=14 end"},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := governedRig(t, options{instances: 2}, `
- {name: again, service: greeter, retry: {max_attempts: 2, retryable_status_codes: [UNAVAILABLE], buffer_per_rpc: 1000}}`)
				r.router.pending = true
				hosts := r.listen(2)
				r.Request(1, "/a.B/C", false)
				r.Message(1, c.size, true)
				r.Want()
				r.router.settle(r.cluster)
				_, caller, _ := r.play(hosts, answers("14"), answers("0"))
				expect(t, "the caller got", caller, []string{c.want})
			})
		})
	}
}
