package upstream

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

// checks asks every 10 s, with jitter that comes to nothing, first after 5 s.
func checks() *health.Config {
	return &health.Config{Policy: "health", Interval: 10 * time.Second, Timeout: 2 * time.Second, Unhealthy: 3, Healthy: 2}
}

func watching() *health.Config {
	cfg := checks()
	cfg.Watch = true
	return cfg
}

const (
	firstCheck = 5 * time.Second
	interval   = 10 * time.Second
)

// serving is the message that an instance is well, or not.
func serving(ok bool) []byte {
	if ok {
		return scriptpeer.Message([]byte{8, 1})
	}
	return scriptpeer.Message([]byte{8, 2})
}

// answer answers a Check.
func answer(p *scriptpeer.Peer, id uint32, ok bool) {
	p.Response(id)
	p.Data(id, serving(ok), false)
	p.Trailers(id, "0")
}

const (
	wantCheck = "HEADERS %d :path=/grpc.health.v1.Health/Check grpc-timeout=2000000u"
	wantWatch = "HEADERS %d :path=/grpc.health.v1.Health/Watch"
)

// wantAsked checks that the instance was asked once, on this stream.
func wantAsked(p *scriptpeer.Peer, format string, id uint32) {
	p.Want(fmt.Sprintf(format, id), fmt.Sprintf("DATA %d 5 end", id))
}

func TestCheck(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		host := r.net.Listen("a:1")
		r.net.Listen("b:1")
		r.cluster.Configure(&Policy{Health: checks()})
		a := r.instance("a:1")
		time.Sleep(firstCheck - 1)
		if n := r.net.Dials("a:1"); n != 0 {
			t.Fatalf("it is asked before its time: %d connections", n)
		}
		time.Sleep(1)
		p := host.Conn()
		id := uint32(1)
		for _, step := range []struct {
			ok      bool
			blocked Reason
		}{
			{true, 0},
			{false, 0},
			{false, 0},
			{true, 0}, // not in a row
			{false, 0},
			{false, 0},
			{false, Unhealthy},
			{false, Unhealthy},
			{true, Unhealthy},
			{true, 0},
		} {
			wantAsked(p, wantCheck, id)
			a.want(t, a.Blocked(), a.Usable()) // nothing changes without an answer
			answer(p, id, step.ok)
			a.want(t, step.blocked, step.blocked == 0)
			time.Sleep(interval)
			id += 2
		}
		// What is asked by the sidecar itself is nobody's RPC.
		if r.counts.Attempts.Load() != 0 || a.InFlight() != 0 {
			t.Errorf("%d attempts and %d RPCs under way are counted", r.counts.Attempts.Load(), a.InFlight())
		}
		if good, bad := r.counts.Judgement.HealthChecks[0].Load(), r.counts.Judgement.HealthChecks[1].Load(); good != 4 || bad < 6 {
			t.Errorf("%d good answers and %d bad ones are counted", good, bad)
		}
	})
}

// What counts as an answer, and as what.
func TestCheckAnswers(t *testing.T) {
	for _, tc := range []struct {
		name string
		say  func(p *scriptpeer.Peer)
		ok   bool
		text string
	}{
		{"unknown service", func(p *scriptpeer.Peer) { p.TrailersOnly(1, "5", "grpc-message", "unknown service") }, false, "NOT_FOUND: unknown service"},
		{"no health checks", func(p *scriptpeer.Peer) { p.TrailersOnly(1, "12") }, true, "UNIMPLEMENTED: it knows no health checks"},
		{"its sidecar cannot reach it", func(p *scriptpeer.Peer) { p.TrailersOnly(1, "14", "pillion-flags", "UF") }, false, "UNAVAILABLE"},
		{"no answer in time", func(*scriptpeer.Peer) { time.Sleep(2 * time.Second) }, false, "no answer within 2s"},
		{"half an answer in time", func(p *scriptpeer.Peer) {
			p.Response(1)
			p.Data(1, serving(true)[:3], false)
			time.Sleep(2 * time.Second)
		}, false, "no answer within 2s"},
		{"a reset", func(p *scriptpeer.Peer) { p.Reset(1, http2.ErrCodeInternal) }, false, "it reset the stream with INTERNAL_ERROR"},
		{"no trailers", func(p *scriptpeer.Peer) { p.Response(1); p.Data(1, serving(true), true) }, false, "UNKNOWN: HTTP status 200, no grpc-status"},
		{"no message that we know", func(p *scriptpeer.Peer) {
			p.Response(1)
			p.Data(1, scriptpeer.Message([]byte("\xff\xff")), false)
		}, false, "the answer is no HealthCheckResponse: unexpected EOF"},
		{"no end", func(p *scriptpeer.Peer) { p.Response(1); p.Data(1, []byte{0, 255, 0, 0, 0}, false) }, false, "the answer has 4278190080 bytes, more than the 4096 that it may have"},
		{"informational first", func(p *scriptpeer.Peer) { p.Headers(1, false, ":status", "103"); answer(p, 1, true) }, true, "SERVING"},
		{"the connection ends", func(p *scriptpeer.Peer) { p.Close() }, false, "the connection ended: EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{}, "a:1")
				host := r.net.Listen("a:1")
				cfg := checks()
				cfg.Unhealthy = 1
				r.cluster.Configure(&Policy{Health: cfg})
				time.Sleep(firstCheck)
				host.Conn().Lines()
				tc.say(host.Conn())
				synctest.Wait()
				a := r.instance("a:1")
				h := r.cluster.Status().Instances[0].Health
				if h == nil || h.Unhealthy == tc.ok || (a.Blocked() == 0) != tc.ok || h.Last.Text != tc.text {
					t.Errorf("blocked for %q, the status is %+v; want %v, %q", a.Blocked(), h, tc.ok, tc.text)
				}
			})
		})
	}
}

// What could not be asked proves nothing: the instance is left alone for its
// connections, and used as soon as they are back.
func TestCheckWithoutConnection(t *testing.T) {
	for _, tc := range []struct {
		name string
		host func(r *rig) func()
	}{
		{"nobody listens", func(r *rig) func() { return func() { r.net.Listen("a:1") } }},
		{"it connects slowly", func(r *rig) func() {
			h := r.net.Listen("a:1")
			h.Delay = time.Hour
			return func() { r.net.Listen("a:1") }
		}},
		{"it says GOAWAY at once", func(r *rig) func() {
			r.net.Add("a:1", &scriptpeer.Host{GoAway: true})
			return func() { r.net.Listen("a:1") }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{}, "a:1")
				back := tc.host(r)
				cfg := checks()
				cfg.Unhealthy, cfg.Interval = 1, time.Minute
				r.cluster.Configure(&Policy{Health: cfg})
				time.Sleep(100 * time.Second) // the third question is 50 s away
				a := r.instance("a:1")
				if synctest.Wait(); a.Blocked() != 0 {
					t.Fatalf("it is blocked: %v", a.LastError())
				}
				if n := r.counts.Judgement.HealthChecks[1].Load(); n != 0 {
					t.Fatalf("%d bad answers are counted", n)
				}
				back()
				time.Sleep(20 * time.Second)
				a.want(t, 0, true)
			})
		})
	}
}

// A check that the instance provably has not seen proves nothing either.
func TestCheckUnprocessed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		cfg := checks()
		cfg.Unhealthy = 1
		r.cluster.Configure(&Policy{Health: cfg})
		time.Sleep(firstCheck)
		wantAsked(host.Conn(), wantCheck, 1)
		host.Conn().Reset(1, http2.ErrCodeRefusedStream)
		r.instance("a:1").want(t, 0, true)
		time.Sleep(interval)
		wantAsked(host.Conn(), wantCheck, 3)
		host.Conn().GoAway(1, http2.ErrCodeNo, "")
		r.instance("a:1").want(t, 0, true)
		time.Sleep(interval)
		if len(host.Conns()) != 2 {
			t.Fatalf("%d connections", len(host.Conns()))
		}
		wantAsked(host.Conn(), wantCheck, 1)
	})
}

// A question that finds no room on the connections is given up in time, and proves
// nothing.
func TestCheckWithoutRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1")
		host := r.net.Listen("a:1", http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		cfg := checks()
		cfg.Unhealthy = 1
		r.cluster.Configure(&Policy{Health: cfg})
		a := r.instance("a:1")
		c := r.call(a)
		c.want("open")
		time.Sleep(firstCheck)
		synctest.Wait()
		if n := r.cluster.Status().Instances[0].Waiting; n != 1 {
			t.Fatalf("%d wait", n)
		}
		time.Sleep(2 * time.Second)
		a.want(t, 0, true)
		if n := r.cluster.Status().Instances[0].Waiting; n != 0 {
			t.Fatalf("%d still wait", n)
		}
		host.Conn().Lines()
		host.Conn().TrailersOnly(1, "0")
		time.Sleep(interval)
		wantAsked(host.Conn(), wantCheck, 3)
	})
}

// There is one question at a time, however slow the answers are.
func TestCheckOneAtATime(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		cfg := checks()
		cfg.Timeout = 35 * time.Second
		r.cluster.Configure(&Policy{Health: cfg})
		time.Sleep(firstCheck)
		p := host.Conn()
		p.Lines()
		time.Sleep(35*time.Second - 1)
		p.Want()
		time.Sleep(1)
		p.Want("RST_STREAM 1 CANCEL")
		time.Sleep(interval)
		p.Want("HEADERS 3 :path=/grpc.health.v1.Health/Check grpc-timeout=35000000u", "DATA 3 5 end")
	})
}

// Jitter spreads the questions.
func TestCheckJitter(t *testing.T) {
	simulated(t, func(t *testing.T) {
		var random float64
		r := newRig(t, Options{Jitter: func() float64 { return random }}, "a:1")
		host := r.net.Listen("a:1")
		random = 0.1
		r.cluster.Configure(&Policy{Health: checks()})
		time.Sleep(time.Second)
		p := host.Conn()
		p.Lines()
		for id, tc := range map[uint32]struct {
			random float64
			wait   time.Duration
		}{1: {0, 9 * time.Second}} {
			random = tc.random
			answer(p, id, true)
			synctest.Wait()
			time.Sleep(tc.wait - 1)
			p.Want()
			time.Sleep(1)
			wantAsked(p, wantCheck, id+2)
		}
		random = 0.999999999
		answer(p, 3, true)
		synctest.Wait()
		time.Sleep(10999 * time.Millisecond)
		p.Want()
		time.Sleep(time.Millisecond)
		wantAsked(p, wantCheck, 5)
	})
}

// Nobody is asked whom nobody uses, or whom no policy has asked.
func TestCheckEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(r *rig)
	}{
		{"the policy is gone", func(r *rig) { r.cluster.Configure(nil) }},
		{"the instance is gone", func(r *rig) { r.update("b:1") }},
		{"the cluster is gone", func(r *rig) { r.cluster.Close() }},
	} {
		for _, asking := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, asking %v", tc.name, asking), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r := newRig(t, Options{}, "a:1")
					host := r.net.Listen("a:1")
					r.net.Listen("b:1")
					cfg := checks()
					cfg.Unhealthy = 1
					r.cluster.Configure(&Policy{Health: cfg})
					time.Sleep(firstCheck)
					p := host.Conn()
					wantAsked(p, wantCheck, 1)
					a := r.instance("a:1")
					if !asking {
						answer(p, 1, false)
						a.want(t, Unhealthy, false)
					}
					tc.end(r)
					synctest.Wait()
					if a.Blocked() != 0 {
						t.Errorf("it is still blocked: %v", a.Blocked())
					}
					r.gauges(0, 0, 0)
					asked := false
					for _, f := range p.Frames() {
						asked = asked || f.Type == http2.FrameHeaders
						if asking && f.Type == http2.FrameRSTStream && f.Code == http2.ErrCodeCancel {
							asking = false
						}
					}
					if asking {
						t.Error("what is under way goes on")
					}
					time.Sleep(10 * interval)
					for _, f := range p.Frames() {
						asked = asked || f.Type == http2.FrameHeaders
					}
					if asked {
						t.Error("it is asked all the same")
					}
				})
			})
		}
	}
}

// Changes of the policy leave what is known of the instance, unless it is asked
// something else.
func TestCheckAndItsPolicy(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		cfg := checks()
		cfg.Unhealthy = 1
		r.cluster.Configure(&Policy{Health: cfg})
		a := r.instance("a:1")
		time.Sleep(firstCheck)
		p := host.Conn()
		p.Lines()
		answer(p, 1, false)
		a.want(t, Unhealthy, false)
		// Asked more often, and believed sooner.
		cfg = checks()
		cfg.Interval, cfg.Healthy = time.Second, 1
		r.cluster.Configure(&Policy{Health: cfg})
		a.want(t, Unhealthy, false)
		time.Sleep(time.Second)
		wantAsked(p, wantCheck, 3)
		answer(p, 3, true)
		a.want(t, 0, true)
		time.Sleep(time.Second)
		p.Lines()
		answer(p, 5, false)
		time.Sleep(time.Second)
		p.Lines()
		answer(p, 7, false)
		time.Sleep(time.Second)
		p.Lines()
		answer(p, 9, false)
		a.want(t, Unhealthy, false)
		// Asked about something else.
		cfg = checks()
		cfg.Service = "a.B"
		r.cluster.Configure(&Policy{Health: cfg})
		a.want(t, 0, true)
		time.Sleep(firstCheck)
		frames := p.Frames()
		if len(frames) != 2 || string(frames[1].Data) != "\x00\x00\x00\x00\x05\x0a\x03a.B" {
			t.Errorf("it is asked %v", frames)
		}
	})
}

func TestWatch(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		r.cluster.Configure(&Policy{Health: watching()})
		a := r.instance("a:1")
		time.Sleep(firstCheck)
		p := host.Conn()
		wantAsked(p, wantWatch, 1)
		p.Response(1)
		p.Data(1, serving(true), false)
		a.want(t, 0, true)
		// It is asked no more, and told at once.
		time.Sleep(time.Hour)
		p.Want()
		p.Data(1, serving(false), false)
		a.want(t, Unhealthy, false)
		p.Data(1, serving(true), false)
		a.want(t, 0, true)
		p.Data(1, append(serving(false), serving(true)...), false)
		a.want(t, 0, true)
		p.Data(1, serving(false), false)
		a.want(t, Unhealthy, false)
		// The stream ends: what was said last holds, and the instance is asked again.
		p.Trailers(1, "14")
		a.want(t, Unhealthy, false)
		time.Sleep(interval)
		wantAsked(p, wantWatch, 3)
		p.Response(3)
		p.Data(3, serving(true), false)
		a.want(t, 0, true)
	})
}

// Who watches takes whatever is told, for as long as it is.
func TestWatchGoesOn(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		r.cluster.Configure(&Policy{Health: watching()})
		time.Sleep(firstCheck)
		p := host.Conn()
		p.Lines()
		p.Response(1)
		var back, sent uint32
		many := bytes.Repeat(serving(true), 2000)
		for range 100 {
			p.Data(1, many, false)
			sent += uint32(len(many))
			for _, f := range p.Frames() {
				if f.Type == http2.FrameWindowUpdate && f.Stream == 1 {
					back += f.Last
				}
			}
		}
		if back < sent/2 {
			t.Errorf("of %d bytes the window got %d back", sent, back)
		}
		r.instance("a:1").want(t, 0, true)
	})
}

// A stream that cannot be had is tried again, less and less often, and counts as bad
// answers do.
func TestWatchFails(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		r.cluster.Configure(&Policy{Health: watching()})
		a := r.instance("a:1")
		time.Sleep(firstCheck)
		p := host.Conn()
		id := uint32(1)
		for n, wait := range []time.Duration{interval, 16 * time.Second, 25600 * time.Millisecond, 40960 * time.Millisecond} {
			wantAsked(p, wantWatch, id)
			if n%2 == 0 {
				p.TrailersOnly(id, "13")
			} else {
				time.Sleep(2 * time.Second) // silence is as bad
				p.Want(fmt.Sprintf("RST_STREAM %d CANCEL", id))
			}
			a.want(t, map[bool]Reason{true: Unhealthy}[n >= 2], n < 2)
			time.Sleep(wait - 1)
			p.Want()
			time.Sleep(1)
			id += 2
		}
		wantAsked(p, wantWatch, id)
		p.Response(id)
		p.Data(id, serving(true), false)
		a.want(t, 0, true)
		// And the next wait is a short one again.
		p.Reset(id, http2.ErrCodeInternal)
		synctest.Wait()
		time.Sleep(interval)
		wantAsked(p, wantWatch, id+2)
	})
}

func TestWatchUnsupported(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		host := r.net.Listen("a:1")
		r.cluster.Configure(&Policy{Health: watching()})
		time.Sleep(firstCheck)
		p := host.Conn()
		wantAsked(p, wantWatch, 1)
		p.TrailersOnly(1, "12")
		r.instance("a:1").want(t, 0, true)
		time.Sleep(2*time.Minute - 1)
		p.Want()
		time.Sleep(1)
		wantAsked(p, wantWatch, 3)
	})
}

// A connection that goes away does not stay for being watched on.
func TestWatchMovesOn(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(p *scriptpeer.Peer)
		opts Options
		last string
	}{
		{"the instance says GOAWAY", func(p *scriptpeer.Peer) { p.GoAway(1<<31-1, http2.ErrCodeNo, "") }, Options{}, ""},
		{"the connection is old", func(*scriptpeer.Peer) { time.Sleep(time.Minute) }, Options{MaxAge: time.Minute}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, tc.opts, "a:1")
				host := r.net.Listen("a:1")
				r.cluster.Configure(&Policy{Health: watching()})
				time.Sleep(firstCheck)
				p := host.Conn()
				wantAsked(p, wantWatch, 1)
				p.Response(1)
				p.Data(1, serving(true), false)
				synctest.Wait()
				tc.end(p)
				reset := false
				for _, line := range p.Lines() {
					reset = reset || line == "RST_STREAM 1 CANCEL"
				}
				if !reset {
					t.Fatal("it is still watched there")
				}
				r.instance("a:1").want(t, 0, true)
				time.Sleep(interval)
				if len(host.Conns()) != 2 {
					t.Fatalf("%d connections", len(host.Conns()))
				}
				wantAsked(host.Conn(), wantWatch, 1)
			})
		})
	}
}
