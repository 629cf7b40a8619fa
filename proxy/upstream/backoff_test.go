package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

// dialTimes lets time pass and returns when an instance was dialled, counted from
// now.
func (r *rig) dialTimes(address string, during time.Duration) (at []time.Duration) {
	start, seen := time.Now(), r.net.Dials(address)
	for time.Since(start) < during {
		time.Sleep(time.Millisecond)
		for n := r.net.Dials(address); seen < n; seen++ {
			at = append(at, time.Since(start))
		}
	}
	return at
}

func TestAnInstanceThatRefusesIsLeftAloneAndTriedAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{BackoffBase: 100 * time.Millisecond, BackoffMax: 300 * time.Millisecond}, "a:1", "b:1")
		in := r.instance("a:1")
		c := r.call(in)
		c.want("connecting to a:1: connection refused")
		if in.Usable() {
			t.Fatal("it is still usable")
		}
		for range 4 {
			if got, ok := r.cluster.Pick(nil); !ok || got == in {
				t.Fatal("it is still picked")
			}
		}
		r.call(in).want("connecting to a:1: connection refused")
		at := r.dialTimes("a:1", 1300*time.Millisecond)
		want := []int64{100, 260, 516, 816, 1116}
		if len(at) != len(want) {
			t.Fatalf("dialled at %v, want at %v ms", at, want)
		}
		for i := range at {
			if d := at[i] - time.Duration(want[i])*time.Millisecond; d < 0 || d > 5*time.Millisecond {
				t.Errorf("dialled at %v, want at %v ms", at, want)
				break
			}
		}
		st := in.status()
		if st.Usable || st.LastError != "connecting to a:1: connection refused" || st.RetryAt.Before(time.Now()) {
			t.Errorf("status: %+v", st)
		}

		r.net.Listen("a:1")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if !in.Usable() || in.LastError() != nil {
			t.Fatal("it is back, and not used")
		}
		r.call(in).want("open")
	})
}

func TestBackoffBeginsAnewAfterASuccess(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{BackoffBase: 100 * time.Millisecond, BackoffMax: 10 * time.Second}, "a:1")
		in := r.instance("a:1")
		r.call(in)
		time.Sleep(5 * time.Second)
		a := r.net.Listen("a:1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !in.Usable() {
			t.Fatal("it is back, and not used")
		}
		r.net.Remove("a:1")
		a.Conn().Close()
		synctest.Wait()
		r.call(in).want("connecting to a:1: connection refused")
		if at := r.dialTimes("a:1", 150*time.Millisecond); len(at) != 1 || at[0] < 100*time.Millisecond || at[0] > 105*time.Millisecond {
			t.Errorf("dialled again at %v, want after 100 ms", at)
		}
	})
}

func TestBackoffJitter(t *testing.T) {
	for _, c := range []struct {
		random float64
		wait   time.Duration
	}{{0, 80 * time.Millisecond}, {0.5, 100 * time.Millisecond}, {0.9999, 120 * time.Millisecond}} {
		t.Run(c.wait.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{BackoffBase: 100 * time.Millisecond, Jitter: func() float64 { return c.random }}, "a:1")
				r.call(r.instance("a:1"))
				at := r.dialTimes("a:1", 125*time.Millisecond)
				if len(at) != 1 || at[0] < c.wait-time.Millisecond || at[0] > c.wait+5*time.Millisecond {
					t.Errorf("dialled again at %v, want after %v", at, c.wait)
				}
			})
		})
	}
}

// Where there is a connection, but no second one can be had, those that wait go
// on waiting for a stream of the first; the instance is not dialled for each.
func TestFurtherConnectionsBackOffToo(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{BackoffBase: time.Second}, "a:1")
		a := r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first := r.call(in)
		first.want("open")
		r.net.Remove("a:1")
		var calls []*call
		for range 100 {
			calls = append(calls, r.call(in))
		}
		if n := r.net.Dials("a:1"); n != 2 {
			t.Errorf("dialled %d times, want 2", n)
		}
		if !in.Usable() {
			t.Error("the instance is avoided, though it has a connection")
		}
		calls[0].want("waits")
		first.cancel()
		calls[0].want("open")
		if at := r.dialTimes("a:1", 1500*time.Millisecond); len(at) != 1 {
			t.Errorf("dialled again at %v, want once after 1 s", at)
		}
		// The first connection ends too: nobody waits for the rest of the back-off.
		a.Conn().Close()
		calls[50].want("the connection to a:1 ended: EOF")
	})
}

// A server that is shutting down may still accept connections, only to say so.
func TestAnInstanceThatGoesAwayAtOnceIsLeftAlone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		a.GoAway = true
		c := r.call(r.instance("a:1"))
		c.want("connecting to a:1: not ready for RPCs: the connection was shut down and its last stream has ended")
		if n := r.net.Dials("a:1"); n != 1+maxTurnedAway {
			t.Errorf("dialled %d times, want %d", n, 1+maxTurnedAway)
		}
	})
}

// One that is being replaced by another process says so on connections that it had
// accepted already. The next one meets the other process, and nobody who waits is told.
func TestAnInstanceThatIsBeingReplacedIsConnectedToAtOnce(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		for range 2 { // what was counted of the first time does not count for the second
			a.Leaving = maxTurnedAway
			before := time.Now()
			c := r.call(r.instance("a:1"))
			c.want("open")
			if took := time.Since(before); took > 0 {
				t.Errorf("it took %v", took)
			}
			a.Conn().GoAway(1<<31-1, http2.ErrCodeNo, "")
			synctest.Wait()
		}
	})
}

// An instance may accept any number of connections and answer nothing. The first
// that ends so may have been an accident; from the second on it is left alone, and
// the longer the more there are.
func TestConnectionsThatComeToNothing(t *testing.T) {
	for name, end := range map[string]func(c *scriptpeer.Peer){
		"closed without an answer": func(c *scriptpeer.Peer) { c.Close() },
		"the protocol is broken":   func(c *scriptpeer.Peer) { c.Headers(2, true, ":status", "200") },
		"GOAWAY without an answer": func(c *scriptpeer.Peer) { c.GoAway(0, http2.ErrCodeNo, "") },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{BackoffBase: 100 * time.Millisecond, BackoffMax: 10 * time.Second}, "a:1")
				a := r.net.Listen("a:1")
				in := r.instance("a:1")
				lose := func() {
					r.call(in).want("open")
					end(a.Conn())
					synctest.Wait()
				}
				lose()
				if !in.Usable() {
					t.Fatal("it is left alone after the first")
				}
				for i, wait := range []time.Duration{160 * time.Millisecond, 256 * time.Millisecond} {
					lose()
					if in.Usable() {
						t.Fatalf("it is used after %d that came to nothing", i+2)
					}
					time.Sleep(wait - time.Millisecond)
					if in.Usable() {
						t.Errorf("it is used again before %v", wait)
					}
					time.Sleep(2 * time.Millisecond)
					synctest.Wait()
					if !in.Usable() {
						t.Fatalf("it is not used again after %v", wait)
					}
				}
				in.Accepted()
				lose()
				if !in.Usable() {
					t.Error("what was before an answer still counts")
				}
			})
		})
	}
}

// A connection over which something was answered may end as it likes.
func TestAConnectionThatWasGoodForSomething(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		in := r.instance("a:1")
		for range 5 {
			r.call(in).want("open")
			a.Conn().Headers(1, true, ":status", "200")
			a.Conn().Close()
			synctest.Wait()
			if !in.Usable() {
				t.Fatal("it is left alone")
			}
		}
	})
}
