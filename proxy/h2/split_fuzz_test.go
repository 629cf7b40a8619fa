package h2

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// FuzzServerSplits and FuzzClientSplits send the same bytes at once and in pieces
// that are read one by one: where reads end must make no difference to what owners
// are told, to how the connection ends, and to what the peer is sent.
func FuzzServerSplits(f *testing.F) {
	addSplits(f)
	f.Fuzz(func(t *testing.T, input, cuts []byte) { split(t, Server, input, cuts) })
}

func FuzzClientSplits(f *testing.F) {
	addSplits(f)
	f.Fuzz(func(t *testing.T, input, cuts []byte) { split(t, Client, input, cuts) })
}

func addSplits(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x06\x00\x00\x01\x00\x06\x00\x00\x01\x00"), []byte{1, 8, 9, 30})
	f.Add([]byte("\x00\x11\x00\x05\x00\x04abcd\x00\x12\x05\x82\x86\x84\x41\x01\x00\x00\x13\x20"), []byte{200})
	f.Add([]byte("\x00\x0e\x00\x08\x06\x06\x00\x00\x00"), []byte{})
}

func split(t *testing.T, role Role, input, cuts []byte) {
	sent := play(role, input)
	// A connection that is over, or drained, ends with the batch that says so: what
	// comes after that depends on where the batch ends, and may.
	ref := newReference(role, referenceConfig, false)
	if role == Client {
		for i := range 3 {
			ref.opened(uint32(1+2*i), i != 1)
		}
	}
	use, refErr := ref.run(sent)
	if rest := sent[use:]; refErr == nil && !ref.draining && ref.open == nil && len(rest) >= frameHeaderLen {
		use += min(len(rest), frameHeaderLen+parseFrameHeader(rest).length) // a frame that is not whole
	}
	sent = sent[:use]
	whole := outcomeOf(t, role, [][]byte{sent})
	var pieces [][]byte
	for _, n := range cuts {
		if len(pieces) == 100 {
			break
		}
		n := min(int(n)+1, len(sent))
		pieces, sent = append(pieces, sent[:n]), sent[n:]
	}
	parts := outcomeOf(t, role, append(pieces, sent))
	if !slices.Equal(whole.frames, parts.frames) || whole.end != parts.end || len(whole.streams) != len(parts.streams) {
		t.Fatalf("at once: %q, %q\nin parts: %q, %q", whole.frames, whole.end, parts.frames, parts.end)
	}
	for i, a := range whole.streams {
		b := parts.streams[i]
		if !slices.Equal(a.events, b.events) {
			t.Fatalf("stream %d at once: %q\nin parts: %q", i, a.events, b.events)
		}
		// Of DATA that turns out to be malformed some may have been handed on.
		if !bytes.Equal(a.data, b.data) && !(b.wasRST && bytes.HasPrefix(b.data, a.data)) {
			t.Fatalf("stream %d at once: %d bytes, in parts: %d", i, len(a.data), len(b.data))
		}
	}
}

// outcome is all that can be seen of a connection.
type outcome struct {
	frames  []string
	end     string
	streams []*recorder
}

func outcomeOf(t *testing.T, role Role, pieces [][]byte) (o outcome) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, role, referenceConfig)
		if role == Server {
			r.raw([]byte(clientPreface))
		} else {
			for i := range 3 {
				r.open(i != 1, post...)
			}
		}
		for _, p := range pieces {
			r.raw(p)
			synctest.Wait()
		}
		for _, line := range r.frames() {
			// How much of the windows is given back at a time follows the reads.
			if !strings.HasPrefix(line, "WINDOW_UPDATE ") {
				o.frames = append(o.frames, line)
			}
		}
		for _, s := range append(slices.Clone(r.w.streams), r.opened...) {
			told := s.snapshot()
			s.mu.Lock()
			told.wasRST = s.wasRST
			s.mu.Unlock()
			o.streams = append(o.streams, told)
		}
		r.w.mu.Lock()
		defer r.w.mu.Unlock()
		if r.w.err != nil {
			o.end = r.w.err.Error()
		}
	})
	return o
}
