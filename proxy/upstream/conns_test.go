package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

func maxStreams(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

func TestOpensAConnectionWhenItIsNeeded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1", "b:1")
		a := r.net.Listen("a:1")
		time.Sleep(time.Minute)
		if n := r.net.Dials("a:1"); n != 0 {
			t.Fatalf("dialled %d times before anybody called", n)
		}
		one := r.call(r.instance("a:1"))
		two := r.call(r.instance("a:1"))
		one.want("open")
		two.want("open")
		three := r.call(r.instance("a:1"))
		three.want("open")
		a.Conn().Want("HEADERS 1 :path=/a.B/C end", "HEADERS 3 :path=/a.B/C end", "HEADERS 5 :path=/a.B/C end")
		if n := r.net.Dials("a:1"); n != 1 {
			t.Errorf("dialled %d times, want once", n)
		}
		if n := r.counts.Connections.Load(); n != 1 {
			t.Errorf("%d connections are counted, want 1", n)
		}
	})
}

// A kernel accepts connections for a process that is about to die. Nothing is
// sent to a peer that has not said that it speaks HTTP/2, so that all that waits
// for it may go elsewhere.
func TestSendsNothingBeforeTheSettings(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		a.Silent = true
		c := r.call(r.instance("a:1"))
		c.want("waits")
		a.Conn().Want()
		a.Conn().Close()
		c.want("connecting to a:1: not ready for RPCs: EOF")
		if r.instance("a:1").Usable() {
			t.Error("an instance that ends its connections at once is used further")
		}
		if n := r.counts.ConnectFailures.Load(); n != 1 {
			t.Errorf("%d connect failures are counted, want 1", n)
		}
	})
}

func TestConnectTimeoutCoversTheSettings(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: 3 * time.Second}, "a:1")
		a := r.net.Listen("a:1")
		a.Silent, a.Delay = true, time.Second
		start := time.Now()
		c := r.call(r.instance("a:1"))
		for c.state() == "waits" && time.Since(start) < time.Minute {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(start); took < 3*time.Second || took > 3*time.Second+time.Millisecond {
			t.Errorf("gave up after %v: %s", took, c.state())
		}
	})
}

func TestConnectTimeoutCoversTheDial(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: 3 * time.Second}, "a:1")
		r.net.Listen("a:1").Delay = time.Hour
		c := r.call(r.instance("a:1"))
		time.Sleep(3*time.Second - 1)
		c.want("waits")
		time.Sleep(time.Nanosecond)
		c.want("connecting to a:1: context deadline exceeded")
	})
}

// A policy's bound goes before the options', for instances that come later as well.
func TestConnectTimeoutOfAPolicy(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: 3 * time.Second}, "a:1")
		within := func(address string, bound time.Duration) {
			t.Helper()
			r.net.Listen(address).Delay = time.Hour
			c := r.call(r.instance(address))
			time.Sleep(bound - 1)
			c.want("waits")
			time.Sleep(time.Nanosecond)
			c.want("connecting to " + address + ": context deadline exceeded")
		}
		r.cluster.Configure(&Policy{ConnectTimeout: time.Second})
		within("a:1", time.Second)
		r.update("a:1", "b:1", "c:1")
		within("b:1", time.Second)
		r.cluster.Configure(nil)
		within("c:1", 3*time.Second)
	})
}

func TestASecondConnectionOnlyAtTheStreamLimit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 2}, "a:1")
		a := r.net.Listen("a:1", maxStreams(3))
		var calls []*call
		for range 3 {
			calls = append(calls, r.call(r.instance("a:1")))
		}
		if n := open(calls); n != 3 || len(a.Conns()) != 1 {
			t.Fatalf("%d of 3 streams are open on %d connections", n, len(a.Conns()))
		}
		for range 4 {
			calls = append(calls, r.call(r.instance("a:1")))
		}
		if n := open(calls); n != 6 || len(a.Conns()) != 2 {
			t.Fatalf("%d of 6 streams are open on %d connections", n, len(a.Conns()))
		}
		calls[6].want("waits")
	})
}

func TestOwnBoundOfStreamsPerConnection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{HTTP2: &h2.Config{MaxOpenStreams: 2}}, "a:1")
		a := r.net.Listen("a:1")
		var calls []*call
		for range 5 {
			calls = append(calls, r.call(r.instance("a:1")))
		}
		if n := open(calls); n != 5 || len(a.Conns()) != 3 {
			t.Errorf("%d of 5 streams are open on %d connections, want 3", n, len(a.Conns()))
		}
	})
}

// What waits gets a stream as soon as one ends, one after the other, until nobody
// waits any more.
func TestWaitingCallsAreWokenOneByOne(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1")
		r.net.Listen("a:1", maxStreams(1))
		var calls []*call
		for range 5 {
			calls = append(calls, r.call(r.instance("a:1")))
			synctest.Wait()
		}
		for i, c := range calls {
			c.want("open")
			for _, later := range calls[i+1:] {
				later.want("waits")
			}
			c.cancel()
		}
	})
}

func TestACallThatLeavesTheQueueHoldsNobodyUp(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1")
		r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first, second, third := r.call(in), r.call(in), r.call(in)
		second.want("waits")
		second.cancel()
		first.cancel()
		third.want("open")
		if n := in.status().Waiting; n != 0 {
			t.Errorf("%d calls are left in the queue", n)
		}
	})
}

// Whoever waits is first: a new call does not take the place that it is woken for.
func TestNewCallsDoNotOvertakeThoseThatWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1")
		r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first, second := r.call(in), r.call(in)
		second.want("waits")
		var third *call
		do(func(b *h2.Batch) {
			first.s.Reset(b, h2.Cancel) // who waits is told when the batch is done
			third = r.call(in)
		})
		second.want("open")
		third.want("waits")
		second.cancel()
		third.want("open")
	})
}

func TestMaxWaiting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxWaiting: 2}, "a:1")
		r.net.Listen("a:1").Delay = time.Second
		in := r.instance("a:1")
		one, two, three := r.call(in), r.call(in), r.call(in)
		three.want(ErrTooManyWaiting.Error())
		time.Sleep(time.Second)
		one.want("open")
		two.want("open")
	})
}

// A peer that allows no stream at all is waited for.
func TestAPeerThatAllowsNoStreamYet(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: time.Second}, "a:1")
		a := r.net.Listen("a:1", maxStreams(0))
		c := r.call(r.instance("a:1"))
		time.Sleep(900 * time.Millisecond)
		c.want("waits")
		if n := len(a.Conns()); n != 1 {
			t.Fatalf("%d connections, want 1", n)
		}
		a.Conn().Settings(maxStreams(1))
		c.want("open")
	})
}

// That is as good as not being ready.
func TestAPeerThatNeverAllowsAStream(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: time.Second}, "a:1")
		r.net.Listen("a:1", maxStreams(0))
		c := r.call(r.instance("a:1"))
		time.Sleep(time.Second + time.Millisecond)
		c.want("connecting to a:1: not ready for RPCs: SETTINGS_TIMEOUT: the instance allowed no streams within the connect timeout")
	})
}

// Those who wait for an instance that allows no streams any more may go elsewhere,
// and it gets another connection.
func TestAPeerThatAllowsNoStreamAnyMore(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{SlowConnect: time.Second, MaxConns: 1}, "a:1")
		a := r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first := r.call(in)
		first.want("open")
		a.Conn().Settings(maxStreams(0))
		synctest.Wait()
		c := r.call(in)
		c.want("waits")
		time.Sleep(time.Second + time.Millisecond)
		c.want("open") // over the new one
		if c.woken == 0 || len(a.Conns()) != 2 {
			t.Errorf("told %d times, %d connections", c.woken, len(a.Conns()))
		}
		first.want("open") // and goes on over the old one

		// So it is for those who wait already when it comes to that.
		waits := r.call(in)
		waits.want("waits")
		time.Sleep(10 * time.Second)
		a.Conn().Settings(maxStreams(0))
		waits.want("waits")
		time.Sleep(time.Second + time.Millisecond)
		waits.want("open")
	})
}

// An instance that ends each connection gracefully, and never finishes what it has,
// does not get a connection for each RPC.
func TestMaxDraining(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxDraining: 3, SlowConnect: time.Second}, "a:1")
		a := r.net.Listen("a:1")
		in := r.instance("a:1")
		var calls []*call
		for range 4 {
			c := r.call(in)
			calls = append(calls, c)
			synctest.Wait()
			if len(calls) == 4 {
				break
			}
			c.want("open")
			a.Conn().GoAway(1<<31-1, http2.ErrCodeNo, "")
			synctest.Wait()
		}
		calls[3].want("waits")
		if !in.Usable() {
			t.Error("it is given no time at all")
		}
		time.Sleep(time.Second + time.Millisecond)
		if in.Usable() {
			t.Error("it is used as if it had room")
		}
		if n := r.net.Dials("a:1"); n != 3 {
			t.Errorf("%d connections were made, want 3", n)
		}
		calls[0].cancel()
		calls[3].want("open")
		if !in.Usable() {
			t.Error("it has room, and is not used")
		}
	})
}

// An instance that had no room when somebody waited is used again once it has, even
// if nobody waits any more.
func TestRoomAfterEverybodyHasGone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxDraining: 1, SlowConnect: time.Second}, "a:1")
		a := r.net.Listen("a:1")
		in := r.instance("a:1")
		first := r.call(in)
		first.want("open")
		a.Conn().GoAway(1<<31-1, http2.ErrCodeNo, "")
		second := r.call(in)
		second.want("waits")
		time.Sleep(time.Second - time.Millisecond)
		second.cancel()
		third := r.call(in)
		time.Sleep(2 * time.Millisecond)
		third.want("waits")
		third.cancel()
		if in.Usable() {
			t.Fatal("it is used as if it had room")
		}
		first.cancel()
		synctest.Wait()
		if !in.Usable() {
			t.Error("it has room, and is not used")
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{IdleTimeout: time.Minute}, "a:1")
		a := r.net.Listen("a:1")
		c := r.call(r.instance("a:1"))
		time.Sleep(10 * time.Minute)
		c.want("open")
		a.Conn().Want("HEADERS 1*")
		c.cancel()
		a.Conn().Want("RST_STREAM 1 CANCEL")
		time.Sleep(time.Minute - time.Second)
		a.Conn().Want()
		time.Sleep(2 * time.Minute)
		a.Conn().Want("GOAWAY 0 NO_ERROR")
		if !a.Conn().Closed() {
			t.Error("the idle connection is still there")
		}
		if n := r.counts.Connections.Load(); n != 0 {
			t.Errorf("%d connections are counted", n)
		}
		r.call(r.instance("a:1")).want("open")
		if n := len(a.Conns()); n != 2 {
			t.Errorf("%d connections were made, want 2", n)
		}
	})
}

// At its age a connection takes no new streams; those it has go on.
func TestMaxAgeWithJitter(t *testing.T) {
	for _, c := range []struct {
		random float64
		age    time.Duration
	}{{0, 9 * time.Minute}, {0.5, 10 * time.Minute}, {0.999999, 11 * time.Minute}} {
		t.Run(c.age.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{MaxAge: 10 * time.Minute, IdleTimeout: -1, Jitter: func() float64 { return c.random }}, "a:1")
				a := r.net.Listen("a:1")
				first := r.call(r.instance("a:1"))
				first.want("open")
				time.Sleep(c.age - time.Second)
				second := r.call(r.instance("a:1"))
				second.want("open")
				old := a.Conn()
				old.Want("HEADERS 1*", "HEADERS 3*")
				time.Sleep(2 * time.Second)
				old.Want("GOAWAY 0 NO_ERROR")
				third := r.call(r.instance("a:1"))
				third.want("open")
				if n := len(a.Conns()); n != 2 {
					t.Fatalf("%d connections, want 2", n)
				}
				old.TrailersOnly(1, "0")
				old.TrailersOnly(3, "0")
				first.want("[headers 200 closed]")
				second.want("[headers 200 closed]")
				time.Sleep(2 * time.Second)
				if !old.Closed() || a.Conn().Closed() {
					t.Errorf("the old connection is closed: %v, the new one: %v", old.Closed(), a.Conn().Closed())
				}
			})
		})
	}
}

func TestGoAwayMakesANewConnection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		first := r.call(r.instance("a:1"))
		first.want("open")
		old := a.Conn()
		old.GoAway(1, http2.ErrCodeNo, "")
		r.call(r.instance("a:1")).want("open")
		if n := len(a.Conns()); n != 2 {
			t.Fatalf("%d connections, want 2", n)
		}
		old.TrailersOnly(1, "0")
		first.want("[headers 200 closed]")
	})
}
