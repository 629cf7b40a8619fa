package h2

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// line simulates a peer who sends as fast as the windows let it, over a network
// that takes so long, until total bytes were sent. It obeys what the engine says.
type farSender struct {
	*rig
	delay        time.Duration // one way
	stream, conn int
	initial      int
	pings        int
	largest      int // SETTINGS_INITIAL_WINDOW_SIZE
	sent         int
}

func newFarSender(r *rig, delay time.Duration) *farSender {
	cfg := r.c.cfg
	return &farSender{rig: r, delay: delay, stream: int(cfg.InitialStreamWindow), initial: int(cfg.InitialStreamWindow), conn: int(cfg.ConnWindow)}
}

// run sends on stream 1, in rounds of one round trip.
func (f *farSender) run(total int) (rounds int) {
	f.t.Helper()
	for f.sent < total {
		if rounds++; rounds > 1000 {
			f.t.Fatalf("after %d round trips %d of %d bytes were sent", rounds, f.sent, total)
		}
		for f.sent < total && f.stream > 0 && f.conn > 0 {
			n := min(f.stream, f.conn, minMaxFrameSize, total-f.sent)
			f.must(f.WriteData(1, false, make([]byte, n)))
			f.stream, f.conn, f.sent = f.stream-n, f.conn-n, f.sent+n
		}
		synctest.Wait()
		time.Sleep(2 * f.delay) // there and back
		f.obey()
	}
	return rounds
}

// obey does what the engine's frames say.
func (f *farSender) obey() {
	f.t.Helper()
	for _, line := range f.frames() {
		var id, n int
		switch line {
		case "PING pillionw":
			f.pings++
			f.must(f.WritePing(true, growthPing))
		case "SETTINGS ack":
		default:
			if _, err := fmt.Sscanf(line, "SETTINGS 4=%d", &n); err == nil {
				f.stream += n - f.initial
				f.initial, f.largest = n, max(f.largest, n)
				f.must(f.WriteSettingsAck())
			} else if _, err := fmt.Sscanf(line, "WINDOW_UPDATE %d %d", &id, &n); err != nil {
				f.t.Fatal(line)
			} else if id == 0 {
				f.conn += n
			} else {
				f.stream += n
			}
		}
	}
}

func TestWindowGrowsForAFarSender(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, Config{MaxStreamWindow: 1 << 20}, role)
			if role == Client {
				r.headers(1, false, ok...)
				r.frames()
			}
			f := newFarSender(r, 50*time.Millisecond)
			rounds := f.run(10 << 20)
			if f.largest != 1<<20 {
				t.Errorf("the window grew to %d", f.largest)
			}
			if r.c.recvTarget != 2<<20 { // room for more than one such stream
				t.Errorf("the connection's window grew to %d", r.c.recvTarget)
			}
			if rounds > 40 { // 160 without growth, 10 with the largest window at once
				t.Errorf("it took %d round trips", rounds)
			}
			if len(o.data) != f.sent {
				t.Errorf("%d of %d bytes came", len(o.data), f.sent)
			}
			grown := f.pings
			f.run(30 << 20)
			if f.pings != grown {
				t.Errorf("%d pings for a window that cannot grow", f.pings-grown)
			}
		})
	})
}

// A stream whose bytes nobody takes on does not grow, nor do those of a process
// that is short of memory.
func TestWindowDoesNotGrow(t *testing.T) {
	t.Run("for a slow reader", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, Config{ConnWindow: 8 << 20}, Server)
			o.keep = true
			f := newFarSender(r, 50*time.Millisecond)
			f.run(65535)
			for range 100 { // taken slowly, in small parts
				do(func(b *Batch) {
					o.mu.Lock()
					defer o.mu.Unlock()
					o.s.Consume(b, 1000)
				})
				time.Sleep(50 * time.Millisecond)
				f.obey()
				f.run(f.sent + min(f.stream, 1000))
			}
			if f.largest != 0 {
				t.Errorf("the window grew to %d", f.largest)
			}
		})
	})
	t.Run("for many slow readers", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newServer(t, Config{ConnWindow: 8 << 20})
			r.w.fresh = func(o *recorder) { o.keep = true }
			for i := range 100 {
				r.headers(uint32(1+2*i), false, post...)
				r.sendData(uint32(1+2*i), 65535)
			}
			time.Sleep(time.Second)
			for range 5 {
				for _, line := range r.frames() {
					if line == "PING pillionw" {
						r.must(r.WritePing(true, growthPing))
					}
				}
				time.Sleep(time.Second)
			}
			if r.c.streamWindow != 65535 {
				t.Errorf("the window grew to %d", r.c.streamWindow)
			}
		})
	})
	t.Run("where memory is tight", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			budget := NewBudget(1000)
			r, _ := openStreamWith(t, Config{Budget: budget}, Server)
			budget.Take(501)
			f := newFarSender(r, 50*time.Millisecond)
			f.run(4 << 20)
			budget.Release(501)
			if f.largest != 0 {
				t.Errorf("the window grew to %d", f.largest)
			}
		})
	})
}

// Small exchanges cause no pings.
func TestSmallExchangesAreNotMeasured(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		for i := range 1000 {
			id := uint32(1 + 2*i)
			r.headers(id, false, post...)
			r.must(r.WriteData(id, true, make([]byte, 10000)))
			for _, line := range r.frames() {
				if line == "PING pillionw" {
					t.Fatal(line)
				}
			}
			r.w.stream(i).send(true, ok...)
		}
	})
}

// A stream that is opened after the windows grew has the grown one, and the peer
// may use it.
func TestNewStreamsHaveTheGrownWindow(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStreamWith(t, Config{ConnWindow: 8 << 20}, role)
			if role == Client {
				r.headers(1, false, ok...)
				r.frames()
			}
			f := newFarSender(r, 50*time.Millisecond)
			f.run(10 << 20)
			if f.initial < 1<<20 {
				t.Fatalf("the window is %d", f.initial)
			}
			if role == Client {
				r.open(true, get...)
				r.frames()
				r.headers(3, false, ok...)
			} else {
				r.headers(3, false, post...)
			}
			r.sendData(3, f.initial)
			for _, line := range r.frames() {
				var id, n int
				_, update := fmt.Sscanf(line, "WINDOW_UPDATE %d %d", &id, &n)
				_, larger := fmt.Sscanf(line, "SETTINGS 4=%d", &n)
				if update != nil && larger != nil && line != "PING pillionw" {
					t.Error(line)
				}
			}
		})
	})
}

// A window that was not enlarged by the answer to a ping that nobody sent.
func TestAnswerToNoPing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStream(t, Server)
		for _, data := range [][8]byte{growthPing, keepalivePing, shutdownPing, {}} {
			r.must(r.WritePing(true, data))
		}
		r.must(r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 70000}))
		want(t, "frames", r.frames(), "SETTINGS ack")
	})
}
