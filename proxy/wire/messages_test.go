package wire_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// appendMessage appends a message of n bytes with its prefix.
func appendMessage(dst []byte, compressed byte, n int) []byte {
	dst = append(dst, compressed)
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	for i := range n {
		dst = append(dst, byte(i))
	}
	return dst
}

func TestMessages(t *testing.T) {
	t.Parallel()
	var m wire.Messages
	if !m.AtBoundary() {
		t.Error("a stream does not start at a boundary")
	}
	steps := []struct {
		what     string
		in       []byte
		ended    int
		boundary bool
	}{
		{"nothing", nil, 0, true},
		{"an empty message", []byte{0, 0, 0, 0, 0}, 1, true},
		{"a first byte", []byte{1}, 0, false},
		{"nothing inside a prefix", nil, 0, false},
		{"most of the prefix", []byte{0, 0, 0}, 0, false},
		{"the rest of it", []byte{2}, 0, false},
		{"half the body", []byte{9}, 0, false},
		{"its end, two empty ones, and a first byte", []byte{9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7}, 3, false},
		{"an empty one's last byte and a whole one", []byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 5}, 2, true},
		{"the largest length there is", []byte{0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, 0, false},
	}
	for _, s := range steps {
		if got := m.Feed(s.in); got != s.ended {
			t.Errorf("%s: %d messages ended, want %d", s.what, got, s.ended)
		}
		if m.AtBoundary() != s.boundary {
			t.Errorf("%s: at a boundary is %v", s.what, m.AtBoundary())
		}
	}
}

func TestMessagesOfFourGiB(t *testing.T) {
	t.Parallel()
	var m wire.Messages
	m.Feed([]byte{0, 0xff, 0xff, 0xff, 0xff})
	chunk := make([]byte, 1<<24)
	for range 1<<8 - 1 {
		if m.Feed(chunk) != 0 {
			t.Fatal("ended early")
		}
	}
	if m.Feed(chunk[:len(chunk)-2]) != 0 || m.AtBoundary() {
		t.Fatal("ended a byte early")
	}
	if m.Feed(chunk[:1]) != 1 || !m.AtBoundary() {
		t.Fatal("did not end")
	}
}

func TestMessagesIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(wire.Messages{}); size > 16 {
		t.Errorf("each stream pays %d bytes twice", size)
	}
}

func TestMessagesAnyChunking(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 12), rapid.IntRange(0, 700)), 0, 20).Draw(t, "sizes")
		var stream []byte
		for _, n := range sizes {
			stream = appendMessage(stream, byte(n&1), n)
		}
		var m wire.Messages
		total := 0
		for rest := stream; len(rest) > 0; {
			n := rapid.IntRange(0, min(len(rest), 40)).Draw(t, "chunk")
			if n == 40 {
				n = len(rest)
			}
			total += m.Feed(rest[:n])
			rest = rest[n:]
		}
		if total != len(sizes) || !m.AtBoundary() {
			t.Fatalf("%d of %d messages, at a boundary: %v", total, len(sizes), m.AtBoundary())
		}
	})
}

// FuzzMessages cuts any bytes at all in two ways, and expects no difference to
// feeding them one by one.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{}, uint8(1))
	f.Add(appendMessage(appendMessage(nil, 0, 3), 1, 0), uint8(4))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var whole, single, chunked wire.Messages
		want := 0
		for i := range stream {
			want += single.Feed(stream[i : i+1])
		}
		if got := whole.Feed(stream); got != want || whole != single {
			t.Errorf("at once: %d messages, want %d; state %v, want %v", got, want, whole, single)
		}
		got := 0
		for rest := stream; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			got += chunked.Feed(rest[:n])
			rest = rest[n:]
		}
		if got != want || chunked != single {
			t.Errorf("in chunks of %d: %d messages, want %d; state %v, want %v", int(size)+1, got, want, chunked, single)
		}
	})
}

func BenchmarkMessagesUnary(b *testing.B) {
	b.ReportAllocs()
	frame := appendMessage(nil, 0, 100)
	var m wire.Messages
	for b.Loop() {
		if m.Feed(frame) != 1 {
			b.Fatal("not one message")
		}
	}
}

// The rest of a message is what Feed takes until it ends.
func TestRestOfAMessage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 20), 1, 5).Draw(t, "messages") {
			stream = append(append(stream, 0, 0, 0, 0, byte(n)), make([]byte, n)...)
		}
		at := rapid.IntRange(0, len(stream)).Draw(t, "at")
		next := stream[at : at+rapid.IntRange(0, len(stream)-at).Draw(t, "next")]
		var m wire.Messages
		m.Feed(stream[:at])
		want, ends, fed := len(next), false, m
		for i := range next {
			if fed.Feed(next[i:i+1]) > 0 {
				want, ends = i+1, true
				break
			}
		}
		before := m
		if n, ended := m.Rest(next); n != want || ended != ends {
			t.Fatalf("%d bytes, ends: %v; want %d, %v", n, ended, want, ends)
		}
		if m != before {
			t.Fatal("the stream has moved")
		}
	})
}
