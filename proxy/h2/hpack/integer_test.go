package hpack

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestIntegerExamples has RFC 7541's Appendix C.1.
func TestIntegerExamples(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value uint64
		mask  byte
		want  string
	}{
		{10, 0x1f, "0a"},
		{1337, 0x1f, "1f9a0a"},
		{42, 0xff, "2a"},
		{30, 0x1f, "1e"},
		{31, 0x1f, "1f00"},
		{127, 0x7f, "7f00"},
		{254, 0x7f, "7f7f"},
		{255, 0x7f, "7f8001"},
		{math.MaxInt64, 0x7f, "7f80ffffffffffffff7f"},
	} {
		want := octets(t, c.want)
		if got := appendInteger(nil, 0, c.mask, c.value); !bytes.Equal(got, want) {
			t.Errorf("%d with mask %#x is written as %x, want %x", c.value, c.mask, got, want)
		}
		got, rest, err := readInteger(append(want, 0xaa), c.mask)
		if err != nil || got != c.value || !bytes.Equal(rest, []byte{0xaa}) {
			t.Errorf("%x is read as %d, rest %x, error %v; want %d", want, got, rest, err, c.value)
		}
	}
}

func TestIntegerErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		octets string
		want   error
	}{
		{"1f", errTruncated},
		{"1f80", errTruncated},
		{"1fffffffffffffffff", errTruncated},
		{"1fffffffffffffffffff", errInteger},   // a ninth octet that says more follows
		{"1fffffffffffffffffff01", errInteger}, // would need more than 63 bits
		{"1f80808080808080808000", errInteger}, // a small value, but longer than allowed
	} {
		if _, _, err := readInteger(octets(t, c.octets), 0x1f); !errors.Is(err, c.want) {
			t.Errorf("%s: error is %v, want %v", c.octets, err, c.want)
		}
	}
	// The longest that is allowed is the highest value, and nothing overflows.
	v, _, err := readInteger(octets(t, "1fffffffffffffffff7f"), 0x1f)
	if err != nil || v != 1<<63-1+0x1f {
		t.Errorf("the highest value is read as %d, error %v", v, err)
	}
}

func TestIntegerRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(4, 7).Draw(t, "prefix bits")
		mask := byte(1)<<bits - 1
		pattern := rapid.Byte().Draw(t, "pattern") &^ mask
		value := rapid.Uint64Range(0, math.MaxInt64).Draw(t, "value")
		tail := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "tail")
		p := appendInteger(nil, pattern, mask, value)
		if p[0]&^mask != pattern {
			t.Fatalf("pattern %#x became %#x", pattern, p[0]&^mask)
		}
		got, rest, err := readInteger(append(p, tail...), mask)
		if err != nil || got != value || !bytes.Equal(rest, tail) {
			t.Fatalf("read %d, rest %x, error %v; want %d, rest %x", got, rest, err, value, tail)
		}
	})
}
