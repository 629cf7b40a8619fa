package h2

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// FuzzServerAgainstReference and FuzzClientAgainstReference give an engine and the
// reference the same bytes: both must hand on the same and end alike.
func FuzzServerAgainstReference(f *testing.F) {
	addScripts(f)
	f.Fuzz(func(t *testing.T, input []byte, how uint8) { compare(t, Server, input, how) })
}

func FuzzClientAgainstReference(f *testing.F) {
	addScripts(f)
	f.Fuzz(func(t *testing.T, input []byte, how uint8) { compare(t, Client, input, how) })
}

func addScripts(f *testing.F) {
	for _, s := range []string{
		"", "\x01", "\x00", "\x02",
		"\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00",
		"\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x06\x00\x00\x01\x00",
		"\x00\x00\x00\x00\x00\x00\x06\x00\x00\x06\x00\x06\x00\x00\x00\x00\x00\x01",
		"\x00\x00\x00\x00\x00\x00\x06\x01\x00\x00\x00\x00\x06\x00\x00\x01\x00\x06\x01\x00\x01",
		"\x00\x0a\x00\x08\x0b\x00\x00\x01\x0d\xff\x02\x04\x08\x03\x09\x0f\x00\x00\x00\x10\x00\x01\x00",
		"\x00\x11\x05\x05\x00\x04abcd\x00\x12\x05\x82\x86\x84\x41\x01\x00\x00\x13\x20",
		// A frame on stream 2, which nobody can open, while stream 3 is open.
		"\x01\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x06\x01\x04\x00\x00\x00\x03\x83\x86\x84\x41\x01a" +
			"\x00\x00\x04\x08\x00\x00\x00\x00\x02\x00\x00\x00\x01",
	} {
		f.Add([]byte(s), uint8(0))
		f.Add([]byte(strings.Repeat(s, 3)), uint8(5))
	}
}

// referenceConfig has no defence against what is much but allowed, and the least
// windows.
var referenceConfig = Config{
	MaxConcurrentStreams: 5, MaxHeaderListSize: 2000, MaxStreamWindow: defaultInitialWindow,
	ConnWindow: 1 << 20, Nuisance: 1 << 30,
}

func compare(t *testing.T, role Role, input []byte, how uint8) {
	keep, most := how&1 == 1, int(how>>1)
	ref := newReference(role, referenceConfig, keep)
	if role == Client {
		for i, end := range []bool{true, false, true} {
			ref.opened(uint32(1+2*i), end)
		}
	}
	sent := play(role, input)
	use, refErr := ref.run(sent)
	sent = sent[:use]

	var streams []*recorder
	var engineErr error
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, role, referenceConfig)
		r.engine.in.most = most
		if role == Server {
			r.w.fresh = func(o *recorder) { o.keep = keep }
			r.raw([]byte(clientPreface))
		} else {
			for _, end := range []bool{true, false, true} {
				r.open(end, post...).keep = keep
			}
		}
		r.raw(sent)
		r.frames()
		streams = append(slices.Clone(r.w.streams), r.opened...)
		for i, o := range streams {
			streams[i] = o.snapshot()
		}
		r.w.mu.Lock()
		defer r.w.mu.Unlock()
		engineErr = r.w.err
	})

	var ce *ConnError
	switch isFault := errors.As(engineErr, &ce) && !ce.Remote; {
	case isFault != (refErr != nil):
		t.Fatalf("the engine ends the connection with %v, the reference with %v\n%s", engineErr, refErr, dump(sent))
	case isFault && !refErr.anyCode && ce.Code != refErr.code:
		t.Fatalf("the engine ends the connection with %v, the reference with %v\n%s", engineErr, refErr, dump(sent))
	}
	if len(streams) != len(ref.order) {
		t.Fatalf("the engine hands on %d streams, the reference %d\n%s", len(streams), len(ref.order), dump(sent))
	}
	for i, want := range ref.order {
		got := streams[i]
		if !slices.Equal(got.events, want.lines) || !bytes.Equal(got.data, want.data) {
			t.Fatalf("stream %d: the engine tells %q and hands on %d bytes, the reference %q and %d\n%s",
				want.id, got.events, len(got.data), want.lines, len(want.data), dump(sent))
		}
	}
}

// snapshot returns what a recorder was told so far, as far as it is the peer's
// doing; where DATA was cut does not count.
func (o *recorder) snapshot() *recorder {
	o.mu.Lock()
	defer o.mu.Unlock()
	told := &recorder{data: bytes.Clone(o.data)}
	for _, e := range o.events {
		switch {
		case e == "closed", strings.HasPrefix(e, "taken "), strings.HasPrefix(e, "reset conn "):
		case strings.HasPrefix(e, "data "):
			if strings.HasSuffix(e, " end") {
				told.events = append(told.events, "end")
			}
		default:
			told.events = append(told.events, e)
		}
	}
	return told
}

// dump shows frames, for a person who looks at a difference.
func dump(p []byte) string {
	var b strings.Builder
	for len(p) >= frameHeaderLen {
		h := parseFrameHeader(p)
		n := min(len(p), frameHeaderLen+h.length)
		fmt.Fprintf(&b, "%v stream %d flags %#x length %d: %.60x\n", http2.FrameType(h.typ), h.id, h.flags, h.length, p[frameHeaderLen:n])
		p = p[n:]
	}
	return b.String() + fmt.Sprintf("%x", p)
}
