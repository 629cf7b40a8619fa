package h2

import (
	"testing"
	"time"
)

// hoarder is a transport that takes all that is tried to be written, and puts it out
// only when it is made to: as TLS does whose peer takes nothing.
type hoarder struct {
	*simEnd
	hoard []byte
	calls int
}

func (h *hoarder) TryWrite(p []byte) (int, bool, error) {
	h.hoard = append(h.hoard, p...)
	return len(p), len(h.hoard) > 0, nil
}

func (h *hoarder) Write(p []byte, stall time.Duration) (int, error) {
	h.calls++
	h.hoard = append(h.hoard, p...)
	_, err := h.simEnd.Write(h.hoard, stall)
	h.hoard = nil
	return len(p), err
}

// What a transport has taken without putting it out is put out, though nothing more
// comes to be written.
func TestPendingOutputIsFinished(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client)
		h := &hoarder{simEnd: r.engine}
		r.c.t = h
		for range 3 {
			var b Batch
			o.s.SendData(&b, []byte("some"), false)
			b.Done()
			want(t, "what was sent", r.frames(), "DATA 1*")
		}
		if h.calls != 3 {
			t.Errorf("Write was called %d times, want 3", h.calls)
		}
	})
}
