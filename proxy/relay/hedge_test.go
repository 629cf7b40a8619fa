package relay

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func hedgingPolicy(change ...func(*retry.Hedging)) *retry.Hedging {
	p := &retry.Hedging{
		Name: "twice", MaxAttempts: 3, Delay: 50 * time.Millisecond, NonFatal: wire.CodesOf(codes.Unavailable), BufferBytes: 1000,
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// gRFC A6, rule by rule.
func TestHedgingPolicy(t *testing.T) {
	const ms = time.Millisecond
	unavailable := answers("14", "grpc-message", "gone")
	failure := "HEADERS 1 :status=200 grpc-status=14 grpc-message=gone end"
	atOnce := func(p *retry.Hedging) { p.Delay = 0 }
	for _, c := range []struct {
		name     string
		policy   *retry.Hedging // default: hedgingPolicy()
		hosts    int            // default: 4
		request  []string
		size     int // of the request's message
		script   []reaction
		attempts []string
		caller   []string
		told     []string
		reason   string
		flag     string
	}{
		{name: "a quick answer is the only one", script: []reaction{answers("0")},
			attempts: []string{"0s a:1"}, caller: []string{answered}},
		{name: "one after the other, the last wins", script: []reaction{silent, silent, answers("0")},
			attempts: []string{"0s a:1", "50ms b:1 1", "100ms c:1 2"}, caller: []string{answered},
			told: []string{"100ms a:1 CANCEL", "100ms b:1 CANCEL"}},
		{name: "no more than the policy has", request: []string{"grpc-timeout", "1S"}, script: []reaction{silent, silent, silent},
			attempts: []string{"0s a:1", "50ms b:1 1", "100ms c:1 2"},
			caller:   []string{`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded while waiting for c:1* pillion-flags=DT end`},
			told:     []string{"1s a:1 CANCEL", "1s b:1 CANCEL", "1s c:1 CANCEL"}, flag: "DT"},
		{name: "the first may win late", script: []reaction{later(120*ms, answers("0")), silent, silent},
			attempts: []string{"0s a:1", "50ms b:1 1", "100ms c:1 2"}, caller: []string{answered},
			told: []string{"120ms b:1 CANCEL", "120ms c:1 CANCEL"}},
		{name: "response headers win", script: []reaction{silent, later(10*ms, fails("14")), silent},
			attempts: []string{"0s a:1", "50ms b:1 1"}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=14 end"},
			told: []string{"60ms a:1 CANCEL"}, reason: "committed"},
		{name: "without a delay all at once", policy: hedgingPolicy(atOnce), script: []reaction{silent, later(10*ms, answers("0")), silent},
			attempts: []string{"0s a:1", "0s b:1 1", "0s c:1 2"}, caller: []string{answered},
			told: []string{"10ms a:1 CANCEL", "10ms c:1 CANCEL"}},

		{name: "a status that is not fatal sends the next at once", script: []reaction{later(10*ms, unavailable), silent, later(5*ms, answers("0"))},
			attempts: []string{"0s a:1", "10ms b:1 1", "60ms c:1 2"}, caller: []string{answered}, told: []string{"65ms b:1 CANCEL"}},
		{name: "until there is none", script: []reaction{unavailable, unavailable, unavailable},
			attempts: []string{"0s a:1", "0s b:1 1", "0s c:1 2"}, caller: []string{failure}, reason: "attempts", flag: "URX"},
		{name: "the last that fails is answered", policy: hedgingPolicy(atOnce),
			script:   []reaction{later(30*ms, unavailable), later(10*ms, answers("14", "grpc-message", "b")), later(20*ms, answers("14", "grpc-message", "c"))},
			attempts: []string{"0s a:1", "0s b:1 1", "0s c:1 2"}, caller: []string{failure}, reason: "attempts", flag: "URX"},
		{name: "one that fails does not end the others", script: []reaction{silent, unavailable, later(10*ms, answers("0"))},
			attempts: []string{"0s a:1", "50ms b:1 1", "50ms c:1 2"}, caller: []string{answered}, told: []string{"60ms a:1 CANCEL"}},
		{name: "a fatal status ends all", script: []reaction{silent, answers("5")},
			attempts: []string{"0s a:1", "50ms b:1 1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=5 end"}, told: []string{"50ms a:1 CANCEL"}, reason: "status"},
		{name: "so does a fatal reset", script: []reaction{silent, resets(http2.ErrCodeInternal)},
			attempts: []string{"0s a:1", "50ms b:1 1"},
			caller:   []string{"HEADERS 1 :status=200 grpc-status=13 grpc-message=* pillion-flags=UR end"}, told: []string{"50ms a:1 CANCEL"}, reason: "status", flag: "UR"},
		{name: "a reset that is not fatal", script: []reaction{silent, func(p *scriptpeer.Peer, _ uint32) { p.Close() }, answers("0")},
			attempts: []string{"0s a:1", "50ms b:1 1", "50ms c:1 2"}, caller: []string{answered}, told: []string{"50ms a:1 CANCEL"}},

		{name: "pushback delays the next, and those after it", script: []reaction{answers("14", "grpc-retry-pushback-ms", "200"), silent, answers("0")},
			attempts: []string{"0s a:1", "200ms b:1 1", "250ms c:1 2"}, caller: []string{answered}, told: []string{"250ms b:1 CANCEL"}},
		{name: "pushback below zero stops further ones", script: []reaction{silent, answers("14", "grpc-retry-pushback-ms", "-1"), answers("0")},
			attempts: []string{"0s a:1", "50ms b:1 1"}},
		{name: "and ends the RPC where there is no other", script: []reaction{answers("14", "grpc-retry-pushback-ms", "x"), answers("0")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=14 grpc-retry-pushback-ms=x end"}, reason: "pushback"},
		{name: "pushback with a fatal status", script: []reaction{answers("5", "grpc-retry-pushback-ms", "10"), answers("0")},
			attempts: []string{"0s a:1"}, caller: []string{"HEADERS 1 :status=200 grpc-status=5 grpc-retry-pushback-ms=10 end"}, reason: "status"},

		{name: "never two at one instance", hosts: 1, policy: hedgingPolicy(atOnce), script: []reaction{later(500*ms, answers("0"))},
			attempts: []string{"0s a:1"}, caller: []string{answered}},
		{name: "but one after the other", hosts: 1, policy: hedgingPolicy(atOnce), script: []reaction{later(10*ms, unavailable), answers("0")},
			attempts: []string{"0s a:1", "10ms a:1 1"}, caller: []string{answered}},
		{name: "two instances", hosts: 2, policy: hedgingPolicy(atOnce), script: []reaction{silent, later(10*ms, unavailable), later(10*ms, answers("0"))},
			attempts: []string{"0s a:1", "0s b:1 1", "10ms b:1 2"}, caller: []string{answered}, told: []string{"20ms a:1 CANCEL"}},

		{name: "too few tokens for a second", policy: hedgingPolicy(func(p *retry.Hedging) {
			p.Limits = retry.NewLimits(nil, &retry.ThrottlingOptions{MaxTokens: 2, TokenRatio: 0.1})
		}), script: []reaction{later(10*ms, unavailable)}, attempts: []string{"0s a:1"}, caller: []string{failure}, reason: "throttled", flag: "URX"},
		{name: "the budget is used up", policy: hedgingPolicy(func(p *retry.Hedging) {
			p.Limits = retry.NewLimits(&retry.BudgetOptions{MinPerSecond: 0.1}, nil)
		}), script: []reaction{later(60*ms, unavailable), later(60*ms, unavailable)}, attempts: []string{"0s a:1", "50ms b:1 1"}, caller: []string{failure}, reason: "budget", flag: "URX"},

		{name: "what was not processed goes elsewhere", script: []reaction{resets(http2.ErrCodeRefusedStream), silent, answers("0")},
			attempts: []string{"0s a:1", "0s b:1", "50ms c:1 1"}, caller: []string{answered}, told: []string{"50ms b:1 CANCEL"}},
		{name: "all get the request", size: 900, policy: hedgingPolicy(atOnce), script: []reaction{later(10*ms, answers("0"))},
			attempts: []string{"0s a:1", "0s b:1 1", "0s c:1 2"}, caller: []string{answered}, told: []string{"10ms b:1 CANCEL", "10ms c:1 CANCEL"}},
		{name: "one that is too long to keep has one copy", size: 2000, script: []reaction{silent, answers("0")},
			attempts: []string{"0s a:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				if c.policy == nil {
					c.policy = hedgingPolicy()
				}
				if c.hosts == 0 {
					c.hosts = 4
				}
				r := newRig(t, options{instances: c.hosts, Config: Config{Random: even}})
				hosts := r.listen(c.hosts)
				under := r.under(func(p *policed) { p.hedging = c.policy })
				under.Request(1, "/a.B/C", c.size == 0, c.request...)
				if c.size > 0 {
					under.Message(1, c.size, true)
				}
				attempts, caller, told := under.play(hosts, c.script...)
				expect(t, "the attempts", lineOf(attempts), c.attempts)
				expect(t, "the caller got", caller, c.caller)
				expect(t, "the instances got", told, c.told)
				if len(c.caller) > 0 {
					r.logged(map[string]any{"retry": c.reason, "flag": c.flag, "attempts": len(attempts)})
				}
			})
		})
	}
}

// body returns what of a request an instance got.
func body(p *scriptpeer.Peer) []byte { return data(p.Frames()) }

// What the caller sends goes to all, and its window follows the one that takes most,
// so that a slow instance does not hold up a quick one.
func TestHedgesGetTheRequestAsItComes(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a := r.net.Listen("a:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		b := r.net.Listen("b:1")
		under := r.under(func(p *policed) {
			p.hedging = hedgingPolicy(func(h *retry.Hedging) { h.MaxAttempts, h.BufferBytes = 2, 64<<10 })
		})
		under.Request(1, "/a.B/C", false)
		under.Message(1, 20000-5, false)
		slow := a.Conn()
		if n := len(body(slow)); n != 100 {
			t.Fatalf("the first got %d bytes, its window is 100", n)
		}
		if n := credit(under.Peer, 1); n != 0 {
			t.Fatalf("%d bytes were given back for 100 that went on", n)
		}
		time.Sleep(50 * time.Millisecond)
		quick := b.Conn()
		if n := len(body(quick)); n != 20000 {
			t.Fatalf("the second got %d bytes, want 20000", n)
		}
		given := credit(under.Peer, 1)
		if given > 20000 || given <= 20000-step {
			t.Errorf("%d bytes were given back, want 20000", given)
		}
		under.Message(1, 20000-5, false)
		if n := len(body(quick)); n != 20000 {
			t.Errorf("the second got %d bytes more, want 20000", n)
		}
		if given += credit(under.Peer, 1); given > 40000 || given <= 40000-step {
			t.Errorf("%d bytes were given back in all, want 40000", given)
		}
		slow.Window(1, 30000)
		if n := len(body(slow)); n != 30000 {
			t.Errorf("the first got %d bytes more, want 30000", n)
		}
		if given += credit(under.Peer, 1); given > 40000 {
			t.Errorf("%d bytes were given back of 40000", given)
		}
		// The slow one answers first: it gets the rest, and the other nothing more.
		slow.Response(1)
		quick.Want("RST_STREAM 1 CANCEL")
		under.Want("HEADERS 1 :status=200")
		slow.Window(1, 1<<20)
		if n := len(body(slow)); n != 9900 {
			t.Errorf("the winner got %d bytes more, want what was left, 9900", n)
		}
		under.Message(1, 5, true)
		if got := body(slow); !bytes.Equal(got, scriptpeer.Message(make([]byte, 5))) {
			t.Errorf("the winner got %d bytes at last", len(got))
		}
		slow.Trailers(1, "0")
		under.Want("HEADERS 1 grpc-status=0 end")
	})
}

// A request that becomes too long to keep goes on with the copy that has taken most.
func TestHedgesOfARequestThatGrowsTooLong(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 4})
		a := r.net.Listen("a:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		b, c := r.net.Listen("b:1"), r.net.Listen("c:1")
		under := r.under(func(p *policed) {
			p.hedging = hedgingPolicy(func(h *retry.Hedging) { h.MaxAttempts, h.Delay = 3, 0 })
		})
		c.Delay = time.Second
		under.Request(1, "/a.B/C", false)
		under.Message(1, 500, false)
		a.Conn().Want("HEADERS 1*", "DATA 1 100")
		b.Conn().Want("HEADERS 1*", "DATA 1 505")
		under.Message(1, 600, false)
		a.Conn().Want("RST_STREAM 1 CANCEL")
		b.Conn().Want("DATA 1 605")
		time.Sleep(2 * time.Second)
		if lines := c.Conn().Lines(); len(lines) > 0 {
			t.Errorf("the third got %q", lines)
		}
		under.Message(1, 100, true)
		b.Conn().Want("DATA 1 105 end")
		b.Conn().TrailersOnly(1, "14")
		under.Want("HEADERS 1 :status=200 grpc-status=14 end")
		r.logged(map[string]any{"retry": "buffer", "flag": "", "instance": "b:1"})
	})
}

// So it does while none has a stream yet.
func TestHedgesThatWaitAreSettledOnOne(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		a.Delay, b.Delay = 100*time.Millisecond, 50*time.Millisecond
		under := r.under(func(p *policed) { p.hedging = hedgingPolicy(func(h *retry.Hedging) { h.Delay = 0 }) })
		under.Request(1, "/a.B/C", false)
		under.Message(1, 2000, true)
		time.Sleep(100 * time.Millisecond)
		a.Conn().Want("HEADERS 1*", "DATA 1 2005 end")
		if lines := b.Conn().Lines(); len(lines) > 0 {
			t.Errorf("the second got %q", lines)
		}
		a.Conn().TrailersOnly(1, "0")
		under.Want(answered)
	})
}

// An instance that cannot be reached costs no copy where there is another, and no
// answer where another copy is under way.
func TestHedgesToInstancesThatCannotBeReached(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 3})
		a, c := r.net.Listen("a:1"), r.net.Listen("c:1")
		under := r.under(func(p *policed) { p.hedging = hedgingPolicy() })
		under.Request(1, "/a.B/C", true)
		a.Conn().Want("HEADERS 1*")
		time.Sleep(50 * time.Millisecond)
		c.Conn().Want("HEADERS 1 * grpc-previous-rpc-attempts=1 end")
		time.Sleep(500 * time.Millisecond)
		under.Want()
		a.Conn().TrailersOnly(1, "0")
		c.Conn().Want("RST_STREAM 1 CANCEL")
		under.Want(answered)
	})
	t.Run("none", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, options{instances: 3})
			under := r.under(func(p *policed) { p.hedging = hedgingPolicy() })
			under.Request(1, "/a.B/C", true)
			under.Want("HEADERS 1 :status=200 grpc-status=14 grpc-message=* pillion-flags=UF end")
		})
	})
}

// The caller's cancellation reaches all copies.
func TestHedgesAreCancelledByTheCaller(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 3})
		hosts := r.listen(3)
		hosts[2].Delay = time.Second
		under := r.under(func(p *policed) { p.hedging = hedgingPolicy() })
		under.Request(1, "/a.B/C", true)
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		for _, h := range hosts[:2] {
			h.Conn().Want("HEADERS 1*")
		}
		under.Reset(1, http2.ErrCodeCancel)
		for _, h := range hosts[:2] {
			h.Conn().Want("RST_STREAM 1 CANCEL")
		}
		time.Sleep(2 * time.Second)
		hosts[2].Conn().Want()
		if n := r.counts.Hedges.Load(); n != 2 {
			t.Errorf("%d hedges are counted, want 2", n)
		}
	})
}
