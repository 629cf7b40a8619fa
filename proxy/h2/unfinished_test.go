package h2

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// What is begun has to be finished, however busily the peer goes on with it.
func TestUnfinishedFrames(t *testing.T) {
	headers := func(length int, flags byte) []byte {
		return appendFrameHeader(nil, length, frameHeaders, flags, 1)
	}
	for name, begin := range map[string]func(r *rig){
		"half of a frame's header":    func(r *rig) { _, _ = r.raw(headers(100, flagEndHeaders)[:5]) },
		"half of a frame":             func(r *rig) { _, _ = r.raw(append(headers(100, flagEndHeaders), make([]byte, 50)...)) },
		"a block that goes on":        func(r *rig) { _, _ = r.raw(headers(0, 0)) },
		"a frame that comes bytewise": func(r *rig) { _, _ = r.raw(headers(16384, flagEndHeaders)) },
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, _ := openStreamWith(t, Config{StallTimeout: 10 * time.Second}, role)
					begin(r)
					for range 9 {
						time.Sleep(time.Second)
						if name == "a frame that comes bytewise" {
							_, _ = r.raw([]byte{0})
						}
						want(t, "frames", r.frames())
					}
					time.Sleep(time.Second)
					lines := r.frames()
					if len(lines) == 0 || !strings.Contains(lines[0], "ENHANCE_YOUR_CALM a frame or a header block that was begun") {
						t.Errorf("after 10s: %q", lines)
					}
				})
			})
		})
	}
}

// What is finished in time may be followed by more, for as long as it takes; the
// body of a message may take any time.
func TestFramesThatTakeTheirTime(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{StallTimeout: 10 * time.Second}, Server)
		for range 10 {
			frame := appendPing(nil, false, [8]byte{})
			_, _ = r.raw(frame[:10])
			time.Sleep(9 * time.Second)
			_, _ = r.raw(frame[10:])
			want(t, "the answer", r.frames(), "PING ack*")
		}
		_, _ = r.raw(appendFrameHeader(nil, 1000, frameData, 0, 1))
		for range 1000 {
			time.Sleep(time.Second)
			_, _ = r.raw([]byte{'x'})
		}
		want(t, "frames", r.frames())
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.closed {
			t.Error("the stream is closed")
		}
	})
}

// Large unfinished blocks come out of the budget: where there is nothing left, the
// peer is sent away.
func TestUnfinishedBlocksCountAgainstTheBudget(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := NewBudget(40 << 10)
		one, two := newServer(t, Config{Budget: g}), newServer(t, Config{Budget: g})
		begin := func(r *rig) {
			r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 15<<10)}))
			r.must(r.WriteContinuation(1, false, make([]byte, 15<<10)))
		}
		begin(one)
		want(t, "the first one's frames", one.frames())
		begin(two)
		if !two.toldToCalmDown() {
			t.Error("the second one was not told to calm down")
		}
		if used := g.Used(); used < 30<<10 {
			t.Errorf("%d bytes of the budget are used, want those of the first one's block", used)
		}
		for _, r := range []*rig{one, two} {
			r.end.Close()
			<-r.served
		}
		if used := g.Used(); used != 0 {
			t.Errorf("%d bytes of the budget are used in the end", used)
		}
	})
}

// A peer that keeps the reader busy may have each read end within a frame, for as
// long as it is another one each time.
func TestReadsThatEndWithinFrames(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{StallTimeout: 10 * time.Second})
		ping := appendPing(nil, false, [8]byte{})
		_, _ = r.raw(ping[:10])
		for range 30 {
			time.Sleep(time.Second)
			_, _ = r.raw(append(ping[10:len(ping):len(ping)], ping[:10]...))
			want(t, "the answer", r.frames(), "PING ack*")
		}
		time.Sleep(10 * time.Second)
		if !r.toldToCalmDown() {
			t.Error("the last one is waited for without an end")
		}
	})
}
