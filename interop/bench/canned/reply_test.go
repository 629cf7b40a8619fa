package canned

import (
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However the windows cut a reply, its DATA is the messages that were ordered.
func TestReplyIsWholeMessagesWhateverTheWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		order := Order{
			Messages: rapid.Uint32Range(1, 5).Draw(t, "messages"),
			Size:     rapid.Uint32Range(0, 40_000).Draw(t, "size"),
		}
		r := newReply(order, time.Time{})
		var body []byte
		for !r.done() {
			window := rapid.Int64Range(1, 1<<20).Draw(t, "window")
			frame, n := r.appendData(nil, 7, window)
			h := parseFrameHeader(frame)
			if h.typ != frameData || h.streamID != 7 || h.length != len(frame)-frameHeaderLen {
				t.Fatalf("a frame %+v of %d bytes, want DATA on stream 7", h, len(frame))
			}
			if n > window || n != int64(h.length) || h.length > maxFrameSize {
				t.Fatalf("a frame of %d bytes took %d of a window of %d", h.length, n, window)
			}
			body = append(body, frame[frameHeaderLen:]...)
		}
		if int64(len(body)) != order.Bytes() {
			t.Fatalf("%d bytes in all, want %d", len(body), order.Bytes())
		}
		for range order.Messages {
			if body[0] != 0 || binary.BigEndian.Uint32(body[1:]) != order.Size {
				t.Fatalf("a prefix % x, want size %d", body[:PrefixLen], order.Size)
			}
			body = body[PrefixLen+order.Size:]
		}
	})
}

func TestReplyKeepsItsRate(t *testing.T) {
	t.Parallel()
	start := time.Unix(100, 0)
	r := newReply(Order{Size: 1000 - PrefixLen, Rate: 2000}, start)
	if d := r.due().Sub(start); d != 0 {
		t.Errorf("the first frame is due after %v, want at once", d)
	}
	r.appendData(nil, 1, maxWindow)
	if d := r.due().Sub(start); d != 500*time.Millisecond {
		t.Errorf("after 1000 bytes at 2000 a second, the next is due after %v, want 500ms", d)
	}
}

func TestOrderInARequest(t *testing.T) {
	t.Parallel()
	want := Order{Messages: 3, Size: 16384, Rate: 1 << 40}
	got, ok, err := parseOrder(want.Request())
	if got != want || !ok || err != nil {
		t.Errorf("parseOrder = %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if _, ok, err := parseOrder(UnaryRequest(100)); ok || err != nil {
		t.Errorf("a request of zeros: order %v, error %v; want neither", ok, err)
	}
	if _, _, err := parseOrder(Order{Size: MaxSize + 1}.Request()); err == nil {
		t.Error("an order over MaxSize is accepted")
	}
}
