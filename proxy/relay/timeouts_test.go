package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// gives has RPCs under these timeouts of a policy called "patience".
func gives(perAttempt, idle, maxAge time.Duration) func(*policed) {
	return func(p *policed) {
		p.timeoutPolicy, p.attemptTimeout, p.idleTimeout, p.maxAge = "patience", perAttempt, idle, maxAge
	}
}

func TestAttemptTimeout(t *testing.T) {
	const ms = time.Millisecond
	again := func(p *policed) {
		gives(100*ms, 0, 0)(p)
		p.retry = retryPolicy(func(p *retry.Policy) { p.Codes = wire.CodesOf(codes.DeadlineExceeded) })
	}
	over := `HEADERS 1 :status=200 grpc-status=4 grpc-message=service "greeter", instance *: it had not answered within the 100ms that policy "patience" gives an attempt pillion-flags=UT end`
	for _, c := range []struct {
		name     string
		give     func(*policed)
		request  []string
		script   []reaction
		attempts []string
		timeouts []string
		caller   []string
		told     []string
		log      map[string]any
	}{
		{name: "alone", give: gives(100*ms, 0, 0), script: []reaction{silent},
			attempts: []string{"0s a:1"}, timeouts: []string{"105000u"}, told: []string{"100ms a:1 CANCEL"},
			caller: []string{`HEADERS 1 :status=200 grpc-status=4 grpc-message=service "greeter", instance a:1: it had not answered within the 100ms that policy "patience" gives an attempt pillion-flags=UT end`},
			log:    map[string]any{"flag": "UT", "status": "DEADLINE_EXCEEDED", "retry": "", "duration_ms": 100}},
		{name: "is retried as DEADLINE_EXCEEDED", give: again, script: []reaction{silent, silent, answers("0")},
			attempts: []string{"0s a:1", "110ms b:1 1", "230ms c:1 2"}, timeouts: []string{"105000u", "105000u", "105000u"},
			told: []string{"100ms a:1 CANCEL", "210ms b:1 CANCEL"}, caller: []string{answered}},
		{name: "never beyond what remains", give: again, request: []string{"grpc-timeout", "150m"}, script: []reaction{silent, silent},
			attempts: []string{"0s a:1", "110ms b:1 1"}, timeouts: []string{"105000u", "45000000n"},
			told:   []string{"100ms a:1 CANCEL", "150ms b:1 CANCEL"},
			caller: []string{`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 150ms exceeded * pillion-flags=DT end`},
			log:    map[string]any{"flag": "DT", "retry": ""}},
		{name: "beyond the deadline it says nothing", give: again, request: []string{"grpc-timeout", "100m"}, script: []reaction{silent},
			attempts: []string{"0s a:1"}, timeouts: []string{"100m"}, told: []string{"100ms a:1 CANCEL"},
			caller: []string{`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 100ms exceeded * pillion-flags=DT end`}},
		{name: "no time for another", give: again, request: []string{"grpc-timeout", "105m"}, script: []reaction{silent},
			attempts: []string{"0s a:1"}, timeouts: []string{"105m"}, told: []string{"100ms a:1 CANCEL"},
			caller: []string{over}, log: map[string]any{"flag": "UT", "retry": "deadline"}},
		{name: "ends with the answer's headers", give: again, script: []reaction{func(p *scriptpeer.Peer, id uint32) {
			p.Response(id)
			later(time.Second, func(p *scriptpeer.Peer, id uint32) { p.Trailers(id, "0") })(p, id)
		}}, attempts: []string{"0s a:1"}, timeouts: []string{"105000u"}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end"}},
		{name: "even where they are held back", give: func(p *policed) {
			again(p)
			p.retry.HoldHeaders = true
		}, script: []reaction{func(p *scriptpeer.Peer, id uint32) {
			p.Response(id)
			later(time.Second, func(p *scriptpeer.Peer, id uint32) { p.Trailers(id, "0") })(p, id)
		}}, attempts: []string{"0s a:1"}, timeouts: []string{"105000u"}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end"}},
		{name: "holds for each hedge", give: func(p *policed) {
			gives(100*ms, 0, 0)(p)
			p.hedging = hedgingPolicy(func(h *retry.Hedging) { h.NonFatal = wire.CodesOf(codes.DeadlineExceeded) })
		}, script: []reaction{silent, silent, silent}, attempts: []string{"0s a:1", "50ms b:1 1", "100ms c:1 2"},
			timeouts: []string{"105000u", "105000u", "105000u"}, told: []string{"100ms a:1 CANCEL", "150ms b:1 CANCEL", "200ms c:1 CANCEL"},
			caller: []string{over}, log: map[string]any{"flag": "UT", "retry": "attempts", "instance": "c:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 4, Config: Config{Random: even}})
				under := r.under(c.give)
				under.Request(1, "/a.B/C", true, c.request...)
				attempts, caller, told := under.play(r.listen(4), c.script...)
				expect(t, "the attempts", lineOf(attempts), c.attempts)
				var timeouts []string
				for _, a := range attempts {
					timeouts = append(timeouts, a.timeout)
				}
				expect(t, "their timeouts", timeouts, c.timeouts)
				expect(t, "the caller got", caller, c.caller)
				expect(t, "the instances got", told, c.told)
				if c.log != nil {
					r.logged(c.log)
				}
			})
		})
	}
}

// The instance is told the timeout, and ends what takes longer: that is the timeout's
// doing, though the answer has begun.
func TestAttemptTimeoutOfAnAnswerUnderWay(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		hosts := r.listen(1)
		under := r.under(gives(100*time.Millisecond, 0, 0))
		under.Request(1, "/a.B/C", true)
		in := hosts[0].Conn()
		in.Want("HEADERS 1*")
		in.Response(1)
		time.Sleep(105 * time.Millisecond)
		in.Reset(1, http2.ErrCodeCancel)
		under.Want("HEADERS 1 :status=200", `HEADERS 1 grpc-status=4 grpc-message=service "greeter", instance a:1: its answer was not complete within the 100ms that policy "patience" gives an attempt pillion-flags=UT end`)
		r.logged(map[string]any{"status": "DEADLINE_EXCEEDED", "flag": "UT"})
	})
}

// The time in which an instance is connected to counts.
func TestAttemptTimeoutWhileConnecting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2, Config: Config{Random: even}})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		a.Delay = time.Hour
		under := r.under(func(p *policed) {
			gives(20*time.Millisecond, 0, 0)(p)
			p.retry = retryPolicy(func(p *retry.Policy) { p.Codes = wire.CodesOf(codes.DeadlineExceeded) })
		})
		under.Request(1, "/a.B/C", true)
		synctest.Wait()
		time.Sleep(30 * time.Millisecond)
		b.Conn().Want("HEADERS 1 * grpc-timeout=25000000n grpc-previous-rpc-attempts=1 end")
		b.Conn().TrailersOnly(1, "0")
		under.Want(answered)
	})
}

func TestIdleTimeout(t *testing.T) {
	const idle = time.Minute
	ended := `grpc-status=14 grpc-message=service "greeter": nothing came or went for 1m0s, the idle timeout of policy "patience" pillion-flags=UT end`
	start := func(t *testing.T, end bool) (*rig, *scriptpeer.Peer) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		under := r.under(gives(0, idle, 0))
		under.Request(1, "/a.B/C", end)
		in := a.Conn()
		in.Want("HEADERS 1*")
		return under, in
	}
	t.Run("a stream on which nothing moves", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, false)
			in.Response(1)
			r.Want("HEADERS 1 :status=200")
			for range 5 { // either side will do
				time.Sleep(40 * time.Second)
				r.Message(1, 10, false)
				in.Want("DATA 1 15")
				time.Sleep(40 * time.Second)
				in.Message(1, 10, false)
				r.Want("DATA 1 15")
			}
			time.Sleep(idle - 1)
			r.Want()
			time.Sleep(time.Nanosecond)
			r.Want("HEADERS 1 "+ended, "RST_STREAM 1 NO_ERROR")
			in.Want("RST_STREAM 1 CANCEL")
			r.logged(map[string]any{"status": "UNAVAILABLE", "flag": "UT"})
		})
	})
	t.Run("within a message", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, true)
			in.Response(1)
			in.Data(1, []byte{0, 0, 0, 0, 9, 1}, false)
			time.Sleep(idle)
			r.Want("HEADERS 1 :status=200", "DATA 1 6", "RST_STREAM 1 CANCEL")
			in.Want("RST_STREAM 1 CANCEL")
		})
	})
	t.Run("a request that does not go on", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, false)
			time.Sleep(idle)
			r.Want("HEADERS 1 :status=200 "+ended, "RST_STREAM 1 NO_ERROR")
			in.Want("RST_STREAM 1 CANCEL")
		})
	})
	t.Run("one that is complete waits for its answer", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, true)
			time.Sleep(10*idle + idle/2)
			r.Want()
			in.Response(1)
			r.Want("HEADERS 1 :status=200")
			time.Sleep(idle - 1)
			r.Want()
			time.Sleep(time.Nanosecond)
			r.Want("HEADERS 1 " + ended)
			in.Want("RST_STREAM 1 CANCEL")
		})
	})
}

func TestMaxAge(t *testing.T) {
	const age = time.Minute
	ended := `grpc-status=14 grpc-message=service "greeter": policy "patience" lets a stream last 1m0s pillion-flags=UT end`
	start := func(t *testing.T, random func() uint64) (*rig, *scriptpeer.Peer) {
		r := newRig(t, options{Config: Config{Random: random}})
		a := r.net.Listen("a:1")
		under := r.under(gives(0, 0, age))
		under.Request(1, "/a.B/C", false)
		in := a.Conn()
		in.Want("HEADERS 1*")
		in.Response(1)
		under.Want("HEADERS 1 :status=200")
		return under, in
	}
	for what, c := range map[string]struct {
		random uint64
		want   time.Duration
	}{"even": {1 << 63, age}, "least": {0, 54 * time.Second}, "most": {1<<64 - 1, 66 * time.Second}} {
		t.Run("between messages, "+what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r, in := start(t, func() uint64 { return c.random })
				begun := time.Now()
				in.Message(1, 10, false)
				time.Sleep(c.want - time.Millisecond)
				r.Want("DATA 1 15")
				time.Sleep(time.Millisecond - time.Since(begun) + c.want - time.Millisecond)
				r.Want("HEADERS 1 "+ended, "RST_STREAM 1 NO_ERROR")
				in.Want("RST_STREAM 1 CANCEL")
				r.logged(map[string]any{"status": "UNAVAILABLE", "flag": "UT"})
			})
		})
	}
	t.Run("with the message under way", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, even)
			in.Data(1, []byte{0, 0, 0, 0, 9, 1}, false)
			time.Sleep(age)
			r.Want("DATA 1 6")
			in.Data(1, []byte{2}, false)
			r.Want("DATA 1 1")
			// The rest of it comes with the next one.
			in.Data(1, append(make([]byte, 7), scriptpeer.Message([]byte("next"))...), false)
			r.Want("DATA 1 7", "HEADERS 1 "+ended, "RST_STREAM 1 NO_ERROR")
			in.Want("RST_STREAM 1 CANCEL")
			r.logged(map[string]any{"response_bytes": 14, "response_messages": 1})
		})
	})
	t.Run("not with a message that does not end", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, even)
			in.Data(1, []byte{0, 0, 0, 0, 9, 1}, false)
			time.Sleep(age + 5*time.Second - 1)
			r.Want("DATA 1 6")
			time.Sleep(time.Nanosecond)
			r.Want("RST_STREAM 1 CANCEL")
			in.Want("RST_STREAM 1 CANCEL")
		})
	})
	t.Run("it ends by itself meanwhile", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, in := start(t, even)
			in.Data(1, []byte{0, 0, 0, 0, 9, 1}, false)
			time.Sleep(age)
			in.Reset(1, http2.ErrCodeInternal)
			r.Want("DATA 1 6", "RST_STREAM 1 INTERNAL_ERROR")
		})
	})
}
