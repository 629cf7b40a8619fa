package hpack

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// decodeBoth decodes with and without writing, and requires that both agree.
func decodeBoth(t interface{ Fatalf(string, ...any) }, src []byte) ([]byte, bool) {
	dst := make([]byte, maxDecodedLen(len(src)))
	n, ok := decodeHuffman(dst, src)
	counted, countedOK := huffmanLen(src)
	if ok != countedOK || ok && n != counted {
		t.Fatalf("%x: decoding gives %d octets, %v; counting gives %d, %v", src, n, ok, counted, countedOK)
	}
	return dst[:n], ok
}

// TestHuffmanEverySymbol puts every symbol, short and long, at every place within an octet, near a
// string's end and far from it.
func TestHuffmanEverySymbol(t *testing.T) {
	t.Parallel()
	for s := range 256 {
		for before := range 20 {
			for _, after := range []int{0, 1, 3, 12} {
				text := bytes.Repeat([]byte{'a'}, before)
				text = append(text, byte(s))
				text = append(text, bytes.Repeat([]byte{'~'}, after)...)
				src := hpack.AppendHuffmanString(nil, string(text))
				if got, ok := decodeBoth(t, src); !ok || !bytes.Equal(got, text) {
					t.Fatalf("%x is decoded as %q, %v; want %q", src, got, ok, text)
				}
			}
		}
	}
}

func TestHuffmanRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 0, 300),
			rapid.Map(rapid.StringMatching(`[ -~]{0,300}`), func(s string) []byte { return []byte(s) }),
		).Draw(t, "text")
		src := hpack.AppendHuffmanString(nil, string(text))
		if got, ok := decodeBoth(t, src); !ok || !bytes.Equal(got, text) {
			t.Fatalf("%x is decoded as %q, %v; want %q", src, got, ok, text)
		}
	})
}

// TestHuffmanInvalid has what RFC 7541 section 5.2 forbids.
func TestHuffmanInvalid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, octets string
		valid        bool
	}{
		{"empty", "", true},
		{"a (00011) and padding", "1f", true},
		{"& (11111000) without padding", "f8", true},
		{"padding of eight bits", "ff", false},
		{"padding of a whole octet after a symbol", "f8ff", false},
		{"padding that is not all ones", "1e", false},
		{"padding of zeros", "18", false},
		{"EOS", "fffffffc", false},
		{"EOS, padded", "ffffffff", false},
		{"a, EOS", "1fffffffe7", false},
		{"EOS in the middle of a long string", "1f18c6318c63ffffffff18c6318c6318c6318c631f", false},
		{"a code that does not end", "fffe", false},
		{"ones, longer than any code", "ffffffffffffffffffffffff", false},
	} {
		if got, ok := decodeBoth(t, octets(t, c.octets)); ok != c.valid {
			t.Errorf("%s (%s): decoded as %q, %v; want %v", c.name, c.octets, got, ok, c.valid)
		}
	}
}

// FuzzHuffman compares with golang.org/x/net.
func FuzzHuffman(f *testing.F) {
	for _, text := range huffmanTexts {
		src := hpack.AppendHuffmanString(nil, text)
		f.Add(src)
		f.Add(src[:len(src)-1])
		f.Add(append(src, 0xff))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, src []byte) {
		got, ok := decodeBoth(t, src)
		want, err := hpack.HuffmanDecodeToString(src)
		if ok != (err == nil) {
			t.Fatalf("%x: valid is %v, x/net says %v", src, ok, err)
		}
		if ok && string(got) != want {
			t.Fatalf("%x: decoded as %q, x/net has %q", src, got, want)
		}
	})
}
