package h2

import (
	"testing"
	"testing/synctest"
	"time"
)

var pings = Config{KeepaliveInterval: 10 * time.Second, KeepaliveTimeout: 3 * time.Second}

func TestKeepalive(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, pings, role)
			o.log()
			time.Sleep(10*time.Second - 1)
			want(t, "before the interval", r.frames())
			time.Sleep(time.Nanosecond)
			want(t, "after the interval", r.frames(), "PING pillionk")
			time.Sleep(3*time.Second - 1)
			r.must(r.WritePing(true, keepalivePing))
			want(t, "frames", r.frames())
			time.Sleep(10 * time.Second)
			want(t, "after another interval", r.frames(), "PING pillionk")
			start := time.Now()
			<-r.served
			if took := time.Since(start); took != 3*time.Second {
				t.Errorf("the silent peer's connection ended after %v", took)
			}
			want(t, "what the owner is told", o.log(), "reset conn*", "closed")
			log := r.w.log()
			want(t, "what the handler is told", log[len(log)-1:], "closed: NO_ERROR: no answer to a keepalive PING within 3s")
		})
	})
}

// Whatever the peer sends is a sign of life.
func TestKeepaliveOfABusyConnection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStreamWith(t, pings, Server)
		for range 10 {
			time.Sleep(9 * time.Second)
			r.must(r.WriteData(1, false, []byte("x")))
			want(t, "frames", r.frames())
		}
		time.Sleep(10 * time.Second)
		want(t, "frames", r.frames(), "PING pillionk")
		r.must(r.WriteData(1, false, []byte("x")))
		synctest.Wait()
		time.Sleep(5 * time.Second)
		want(t, "frames", r.frames())
	})
}

// Servers take pings on an idle connection for abuse.
func TestIdleConnectionIsNotPinged(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, pings)
		time.Sleep(time.Hour + time.Second)
		want(t, "frames", r.frames())
		r.open(true, get...)
		want(t, "frames", r.frames(), "HEADERS 1*")
		time.Sleep(10 * time.Second)
		want(t, "within an interval", r.frames(), "PING pillionk")
	})
}

func TestKeepaliveIsOffByDefault(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStream(t, Client)
		time.Sleep(24 * time.Hour)
		want(t, "frames", r.frames())
	})
}
