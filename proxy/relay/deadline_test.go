package relay

import (
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// told returns what the instance was told in grpc-timeout; 0: nothing.
func told(t *testing.T, in *scriptpeer.Peer) time.Duration {
	t.Helper()
	for _, f := range in.Frames() {
		if f.Type == http2.FrameHeaders {
			if f.Get("grpc-timeout") == "" {
				return 0
			}
			d, err := wire.ParseTimeout(f.Get("grpc-timeout"))
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatal("the instance got no request")
	return 0
}

// The caller is answered exactly when the time is over, and the instance learns
// that nobody waits any more.
func TestDeadlineIsExact(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1"), 1, true, "grpc-timeout", "50m")
		time.Sleep(50*time.Millisecond - 1)
		r.Want()
		time.Sleep(time.Nanosecond)
		r.Want(`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 50ms exceeded while waiting for a:1 of service "greeter" pillion-flags=DT end`)
		in.Want("RST_STREAM 1 CANCEL")
		r.logged(map[string]any{"status": "DEADLINE_EXCEEDED", "flag": "DT", "instance": "a:1", "duration_ms": 50})
	})
}

const forEver = time.Duration(1<<63 - 1)

func TestWhatTheInstanceIsTold(t *testing.T) {
	for _, c := range []struct {
		name        string
		timeout     string
		byDefault   time.Duration
		limit       time.Duration
		delay, want time.Duration
	}{
		{name: "none", want: 0},
		{name: "the caller's own", timeout: "2S", want: 2 * time.Second},
		{name: "hardly later", timeout: "2S", delay: 3 * time.Millisecond, want: 2 * time.Second},
		{name: "later", timeout: "2S", delay: time.Second, want: 1005 * time.Millisecond},
		{name: "later, rounded up", timeout: "2S", delay: time.Second - 1, want: 1006 * time.Millisecond},
		{name: "never more than the caller gave", timeout: "150300u", delay: 4900 * time.Microsecond, want: 150300 * time.Microsecond},
		{name: "never more than the caller gave, though rounded", timeout: "150300u", delay: 5100 * time.Microsecond, want: 150300 * time.Microsecond},
		{name: "short", timeout: "20m", delay: 10 * time.Millisecond, want: 15 * time.Millisecond},
		{name: "for ever", timeout: "99999999H", want: forEver},
		{name: "for ever, later", timeout: "99999999H", delay: time.Second, want: forEver},
		{name: "default", byDefault: time.Second, want: time.Second},
		{name: "default, later", byDefault: time.Second, delay: 500 * time.Millisecond, want: 505 * time.Millisecond},
		{name: "the caller's own above the default", timeout: "5S", byDefault: time.Second, want: 5 * time.Second},
		{name: "limit", timeout: "5S", limit: time.Second, want: time.Second},
		{name: "limit alone", limit: time.Second, want: time.Second},
		{name: "below the limit", timeout: "500m", limit: time.Second, want: 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{DefaultTimeout: c.byDefault, MaxTimeout: c.limit}})
				a := r.net.Listen("a:1")
				r.router.pending = true
				var pairs []string
				if c.timeout != "" {
					pairs = []string{"grpc-timeout", c.timeout}
				}
				r.Request(1, "/a.B/C", true, pairs...)
				synctest.Wait()
				time.Sleep(c.delay)
				r.router.settle(r.cluster)
				got := told(t, a.Conn())
				if c.want == forEver {
					if got < 99*365*24*time.Hour {
						t.Errorf("told %v", got)
					}
				} else if got != c.want {
					t.Errorf("told %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestDefaultDeadlineExpires(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{DefaultTimeout: time.Second}})
		r.ask(r.net.Listen("a:1"), 1, true)
		time.Sleep(time.Second)
		r.Want("HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded* end")
	})
}

// Where the time went, and what was let go of.
func TestDeadlineExpires(t *testing.T) {
	const timeout = 50 * time.Millisecond
	start := func(t *testing.T) *rig { return newRig(t, options{upstream: oneStream}) }
	t.Run("while routing", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := start(t)
			r.router.pending = true
			r.Request(1, "/a.B/C", true, "grpc-timeout", "50m")
			synctest.Wait()
			time.Sleep(timeout)
			r.Want("HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 50ms exceeded while its destination was looked up pillion-flags=DT end")
			r.router.settle(r.cluster)
			if n := r.net.Dials("a:1"); n != 0 {
				t.Errorf("dialled %d times for an RPC that is over", n)
			}
		})
	})
	t.Run("while connecting", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := start(t)
			a := r.net.Listen("a:1")
			a.Delay = time.Second
			r.Request(1, "/a.B/C", true, "grpc-timeout", "50m")
			synctest.Wait()
			time.Sleep(timeout)
			r.Want(`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 50ms exceeded while connecting to a:1 of service "greeter" pillion-flags=DT end`)
			time.Sleep(2 * time.Second)
			a.Conn().Want()
		})
	})
	t.Run("while waiting for a stream", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := start(t)
			a := r.net.Listen("a:1", http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
			in := r.ask(a, 1, true)
			r.Request(3, "/a.B/C", true, "grpc-timeout", "50m")
			synctest.Wait()
			time.Sleep(timeout)
			r.Want("HEADERS 3 :status=200 grpc-status=4* pillion-flags=DT end")
			in.TrailersOnly(1, "0")
			in.Want()
		})
	})
	t.Run("between messages", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := start(t)
			in := r.ask(r.net.Listen("a:1"), 1, false, "grpc-timeout", "50m")
			in.Response(1)
			in.Message(1, 10, false)
			time.Sleep(timeout)
			r.Want("HEADERS 1 :status=200", "DATA 1 15", "HEADERS 1 grpc-status=4* pillion-flags=DT end", "RST_STREAM 1 NO_ERROR")
			in.Want("RST_STREAM 1 CANCEL")
		})
	})
	t.Run("within a message", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := start(t)
			in := r.ask(r.net.Listen("a:1"), 1, false, "grpc-timeout", "50m")
			in.Response(1)
			in.Data(1, []byte{0, 0, 0, 0, 2, 1}, false)
			time.Sleep(timeout)
			r.Want("HEADERS 1 :status=200", "DATA 1 6", "RST_STREAM 1 CANCEL")
			in.Want("RST_STREAM 1 CANCEL")
			r.logged(map[string]any{"status": "DEADLINE_EXCEEDED", "flag": "DT"})
		})
	})
}

// oneStream: no second connection to an instance.
var oneStream = upstreamOptions(1)

// late opens an RPC of 50 ms whose timer is late, and lets the time pass.
func (r *rig) late(a *scriptpeer.Host) (caller, in *scriptpeer.Peer) {
	var rpcs []*RPC
	caller = r.callerOf(watched{callers{r.proxy}, &rpcs})
	caller.Request(1, "/a.B/C", true, "grpc-timeout", "50m")
	in = a.Conn()
	in.Want("HEADERS 1*")
	rpcs[0].timer.timer.Stop()
	time.Sleep(50 * time.Millisecond)
	return caller, in
}

// The instance's clock may be a little faster: its reset at the deadline is the
// deadline's.
func TestResetByTheInstanceAtTheDeadline(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		caller, in := r.late(r.net.Listen("a:1"))
		caller.Want()
		in.Reset(1, http2.ErrCodeCancel)
		caller.Want("HEADERS 1 :status=200 grpc-status=4* pillion-flags=DT end")
	})
}

// So may the caller's.
func TestCancelByTheCallerAtTheDeadline(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		caller, in := r.late(r.net.Listen("a:1"))
		caller.Reset(1, http2.ErrCodeCancel)
		in.Want("RST_STREAM 1 CANCEL")
		r.logged(map[string]any{"status": "DEADLINE_EXCEEDED", "flag": "DT"})
	})
}

// The timer of an RPC that is over does not end the next one in its memory.
func TestTimersDoNotHitLaterRPCs(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		id := uint32(1)
		for range 20 {
			in := r.ask(a, id, true, "grpc-timeout", "50m")
			in.TrailersOnly(id, "0")
			r.Want("HEADERS* grpc-status=0 end")
			id += 2
		}
		in := r.ask(a, id, true)
		late := r.ask(a, id+2, true, "grpc-timeout", "80m")
		time.Sleep(70 * time.Millisecond)
		r.Want()
		in.TrailersOnly(id, "0")
		late.TrailersOnly(id+2, "0")
		r.Want("HEADERS* grpc-status=0 end", "HEADERS* grpc-status=0 end")
	})
}

// Whatever deadlines RPCs had before in the same memory, and however they ended, each
// deadline passes when it should.
func TestDeadlinesAreKeptWhateverWasBefore(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		id := uint32(1)
		for _, c := range []struct {
			timeout  time.Duration
			answered bool
		}{
			{5 * time.Second, true}, {50 * time.Millisecond, false}, {20 * time.Millisecond, true},
			{30 * time.Millisecond, false}, {time.Hour, true}, {5 * time.Second, true}, {10 * time.Second, false},
			{5 * time.Second, true}, {4 * time.Second, true}, {6 * time.Second, false}, {9 * time.Second, true},
			{time.Minute, false},
		} {
			in := r.ask(a, id, true, "grpc-timeout", strconv.Itoa(int(c.timeout.Milliseconds()))+"m")
			if c.answered {
				time.Sleep(c.timeout / 2)
				in.TrailersOnly(id, "0")
				r.Want("HEADERS* grpc-status=0 end")
			} else {
				time.Sleep(c.timeout - time.Millisecond)
				r.Want()
				time.Sleep(time.Millisecond)
				r.Want(fmt.Sprintf("HEADERS %d :status=200 grpc-status=4* pillion-flags=DT end", id))
				in.Want("RST_STREAM*")
			}
			id += 2
		}
	})
}

// A callback that comes late, in the middle of the memory's next life.
func TestLateTimerCallback(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		var rpcs []*RPC
		caller := r.callerOf(watched{callers{r.proxy}, &rpcs})
		caller.Request(1, "/a.B/C", true)
		a.Conn()
		rpcs[0].onDeadline() // it has no deadline at all
		caller.Want()
		caller.Request(3, "/a.B/C", true, "grpc-timeout", "1S")
		a.Conn()
		rpcs[1].onDeadline()
		caller.Want()
	})
}

// watched remembers the RPCs.
type watched struct {
	callers
	rpcs *[]*RPC
}

func (w watched) NewStream(*h2.Conn) *h2.Stream {
	r := newRPC(w.Proxy)
	*w.rpcs = append(*w.rpcs, r)
	return &r.down
}
