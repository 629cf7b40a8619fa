package h2

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A client that is made to reset streams as soon as they are open does so at a rate
// that servers bear; the others it resets when they are old enough.
func TestResetsArePostponed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		resets := func() (n int) {
			for _, line := range r.frames() {
				if strings.HasPrefix(line, "RST_STREAM") {
					n++
				}
			}
			return n
		}
		const streams = 1000
		for range streams {
			r.open(false, post...).rst(Cancel)
		}
		if n := resets(); n != 250 {
			t.Errorf("%d streams were reset at once, want 250", n)
		}
		r.c.mu.Lock()
		if n := r.c.inUse(); n != streams-250 {
			t.Errorf("%d streams count as open, want %d", n, streams-250)
		}
		r.c.mu.Unlock()
		for _, o := range r.opened {
			if o.mu.Lock(); !o.closed {
				t.Fatal("an owner has to wait")
			}
			o.mu.Unlock()
		}
		time.Sleep(450 * time.Millisecond)
		if n := resets(); n != 0 {
			t.Errorf("%d streams were reset within 450ms", n)
		}
		time.Sleep(50 * time.Millisecond)
		if n := resets(); n != streams-250 {
			t.Errorf("%d streams were reset after 500ms, want %d", n, streams-250)
		}
		if n := r.c.inUse(); n != 0 {
			t.Errorf("%d streams count as open in the end", n)
		}
	})
}

// Streams that wait for their reset take room, which is offered when it is there
// again.
func TestPostponedResetsTakeRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{PrematureResets: 2}, maxStreams(10))
		for range 10 {
			r.open(false, post...).rst(Cancel)
		}
		if n := r.c.Room(); n != 1 { // half of PrematureResets was reset at once
			t.Fatalf("room for %d streams, want 1", n)
		}
		r.open(false, post...)
		if n := r.c.Room(); n != 0 {
			t.Fatalf("room for %d streams, want none", n)
		}
		r.w.log()
		time.Sleep(time.Second)
		r.frames()
		want(t, "what the handler is told", r.w.log(), "slots")
		if n := r.c.Room(); n != 9 {
			t.Errorf("then room for %d streams, want 9", n)
		}
	})
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// What one engine sends, another bears, for as long as it goes on.
func TestPostponedResetsAreBorne(t *testing.T) {
	simulated(t, func(t *testing.T) {
		client := newClient(t, Config{}, maxStreams(1000))
		server := newServer(t, Config{})
		for range 100 { // 10 s
			for range 500 {
				if client.c.Room() > 0 {
					client.open(false, post...).rst(Cancel)
				}
			}
			for _, line := range client.frames() {
				var id uint32
				switch parts := strings.Fields(line); parts[0] {
				case "HEADERS":
					id = number(t, parts[1])
					server.headers(id, false, post...)
				case "RST_STREAM":
					id = number(t, parts[1])
					server.must(server.WriteRSTStream(id, 8))
				}
			}
			server.wantNoEnd()
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// A peer that has not heard yet that a stream is reset may use the larger window
// that it was told of meanwhile.
func TestWindowsGrowWhileAResetIsPostponed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{PrematureResets: 2, InitialStreamWindow: 64 << 10})
		r.open(false, post...).rst(Cancel) // half of PrematureResets is reset at once
		r.open(false, post...).rst(Cancel)
		want(t, "frames", r.frames(), "HEADERS 1*", "RST_STREAM 1*", "HEADERS 3*")
		do(func(b *Batch) {
			r.c.mu.Lock()
			defer r.c.mu.Unlock()
			r.c.growWindows(b, 128<<10)
		})
		want(t, "the larger window", r.frames(), "SETTINGS 4=131072")
		r.headers(3, false, ok...)
		for range 8 {
			r.must(r.WriteData(3, false, make([]byte, 16<<10)))
		}
		for _, line := range r.frames() {
			if !strings.HasPrefix(line, "WINDOW_UPDATE 0") {
				t.Error(line)
			}
		}
		r.must(r.WriteData(3, false, []byte{0}))
		if lines := r.frames(); len(lines) == 0 || !strings.Contains(lines[0], "FLOW_CONTROL_ERROR") {
			t.Errorf("beyond the larger window: %q", lines)
		}
	})
}

// A stream whose reset is postponed takes the place of one that was to begin when
// the peer lowers its limit.
func TestPostponedResetsCountAgainstALoweredLimit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{PrematureResets: 2}, maxStreams(10))
		r.open(false, post...).rst(Cancel)
		r.open(false, post...).rst(Cancel)
		r.frames()
		r.fillOutput(func() *recorder { return r.open(false, post...) })
		r.must(r.WriteSettings(maxStreams(1)))
		synctest.Wait()
		want(t, "beyond the limit", r.others(r.drain()), "SETTINGS ack")
		time.Sleep(500 * time.Millisecond)
		want(t, "once it is reset", r.frames(), "RST_STREAM 3*", "HEADERS 5*")
	})
}

// A stream that had to wait is as old as the peer knows it for.
func TestStreamsAgeFromWhenTheyAreSent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{PrematureResets: 2})
		r.open(false, post...).rst(Cancel) // half of PrematureResets is reset at once
		waited := r.fillOutput(func() *recorder { return r.open(false, post...) })
		time.Sleep(time.Second)
		r.drain()
		r.open(false, post...).rst(Cancel) // what has grown again
		r.frames()
		waited.rst(Cancel)
		want(t, "when it was sent", r.frames())
		time.Sleep(time.Second)
		if lines := r.frames(); len(lines) != 1 || !strings.HasPrefix(lines[0], "RST_STREAM") {
			t.Errorf("a second later: %q", lines)
		}
	})
}

// What is left of a step is not lost, however often is looked.
func TestAllowanceGrowsEvenly(t *testing.T) {
	t.Parallel()
	const most, perSecond = 2000, 1000
	now := time.Now().UnixNano()
	var a allowance
	for range most {
		a.take(now, most, perSecond)
	}
	taken := 0
	for range 2500 { // a second, in steps of which one does not take a whole number to grow
		now += int64(400 * time.Microsecond)
		if a.grow(now, perSecond); a.take(now, most, perSecond) {
			taken++
		}
	}
	if taken < perSecond-1 || taken > perSecond+1 {
		t.Errorf("%d in a second, want %d", taken, perSecond)
	}
}
