package downstream

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// throwAway has a caller begin RPCs and cancel each, until he is ended. It returns
// how many he could.
func (r *rig) throwAway() int {
	p := r.dial()
	for n := range 5000 {
		id := uint32(2*n + 1)
		p.Request(id, "/a.B/C", true)
		p.Reset(id, http2.ErrCodeCancel)
		synctest.Wait()
		for _, line := range p.Lines() {
			if strings.Contains(line, "ENHANCE_YOUR_CALM") {
				p.Close()
				synctest.Wait()
				return n
			}
		}
	}
	r.t.Fatal("the caller was never ended")
	return 0
}

// Who was ended for throwing RPCs away can throw no more of them away by connecting
// anew, until some time has passed.
func TestNobodyGetsANewCreditByConnectingAnew(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		began := time.Now()
		total := r.throwAway()
		first := total
		for range 9 {
			total += r.throwAway()
		}
		perSecond := float64(r.s.opts.HTTP2.MaxConcurrentStreams)
		if most := float64(first) + time.Since(began).Seconds()*perSecond; float64(total) > most+20 {
			t.Errorf("ten connections threw %d RPCs away, the first one %d of them, want at most %.0f in %v",
				total, first, most, time.Since(began))
		}
		time.Sleep(10 * time.Second)
		if again := r.throwAway(); again != first {
			t.Errorf("after a pause a connection threw %d RPCs away, want %d again", again, first)
		}
	})
}

// RPCs that a caller abandons by closing his connection are thrown away too, and he
// waits for as long as he is overdrawn, a second at most. Few cost nothing.
func TestAbandonedRPCsAreChargedFor(t *testing.T) {
	for _, test := range []struct {
		streams, conns int
		min, max       time.Duration
	}{
		{streams: 2, conns: 300},
		{streams: 250, conns: 2},
		{streams: 900, conns: 1, min: 150 * time.Millisecond, max: 400 * time.Millisecond},
		{streams: 900, conns: 50, min: 450 * time.Millisecond, max: time.Second},
	} {
		t.Run(fmt.Sprintf("%d on each of %d connections", test.streams, test.conns), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, 0)
				for range test.conns {
					p := r.dial()
					for i := range test.streams {
						p.Request(uint32(2*i+1), "/a.B/C", true)
					}
					synctest.Wait()
					p.Close()
				}
				synctest.Wait()
				began := time.Now()
				p := r.dial()
				p.Request(1, "/a.B/C", true)
				synctest.Wait()
				if waited := time.Since(began); waited < test.min || waited > test.max {
					t.Errorf("the next connection waits %v, want %v to %v", waited, test.min, test.max)
				}
			})
		})
	}
}

// Who was not taken because there were too many connections has done nothing wrong.
func TestRefusedConnectionsAreNotChargedFor(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 1)
		first := r.dial()
		for range 50 {
			r.dial().Close()
		}
		first.Close()
		time.Sleep(2 * time.Second)
		if len(r.s.credits.of) != 0 {
			t.Errorf("%d callers are charged", len(r.s.credits.of))
		}
	})
}

// Who waits is heard at once when the server is shut down, which then ends him as it
// ends the others.
func TestShutdownDoesNotWaitForTheOverdrawn(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.s.credits.charge(nil, time.Now(), 1<<20)
		began := time.Now()
		heard := make(chan time.Duration)
		go func() {
			r.dial()
			heard <- time.Since(began)
		}()
		synctest.Wait()
		go func() { _ = r.shutdown(time.Minute) }()
		if waited := <-heard; waited > 10*time.Millisecond {
			t.Errorf("the caller waited %v", waited)
		}
	})
}

// Whose an address is; who owns a network of IPv6 addresses is one caller.
func TestOrigin(t *testing.T) {
	t.Parallel()
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1234} }
	for _, test := range []struct {
		a, b net.Addr
		same bool
	}{
		{tcp("10.0.0.1"), tcp("10.0.0.1"), true},
		{tcp("10.0.0.1"), tcp("::ffff:10.0.0.1"), true},
		{tcp("10.0.0.1"), tcp("10.0.0.2"), false},
		{tcp("2001:db8::1"), tcp("2001:db8::2"), true},
		{tcp("2001:db8::1"), tcp("2001:db8:0:1::1"), false},
		{&net.UnixAddr{Name: "@"}, &net.UnixAddr{}, true},
		{tcp("10.0.0.1"), &net.UnixAddr{}, false},
	} {
		if same := origin(test.a) == origin(test.b); same != test.same {
			t.Errorf("%v and %v: the same is %v", test.a, test.b, same)
		}
	}
}

// However many addresses there are, few are remembered, and those that owe most
// longest.
func TestFewCreditsAreRemembered(t *testing.T) {
	t.Parallel()
	cfg := h2.Config{}.WithDefaults()
	c := credits{cfg: &cfg}
	now := time.Now()
	at := func(i int) net.Addr { return &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))} }
	c.charge(at(0), now, 1<<20)
	for i := range 20 * maxCredits {
		c.charge(at(i+1), now, 1)
	}
	if len(c.of) > maxCredits {
		t.Errorf("%d addresses are remembered", len(c.of))
	}
	if credit := c.get(at(0), now); credit.Wait(&cfg, now) == 0 {
		t.Error("the one that owes most was forgotten")
	}
	if credit := c.get(at(0), now.Add(time.Minute)); !credit.Restored(&cfg, now.Add(time.Minute)) {
		t.Error("a credit is not restored after a minute")
	}
}
