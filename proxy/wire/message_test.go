package wire_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestEncodeMessage(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                 "",
		"no such greeting": "no such greeting",
		"100%":             "100%25",
		"~!\"#$&'()":       "~!\"#$&'()",
		"a\nb":             "a%0Ab",
		"\x7f":             "%7F",
		"grüß":             "gr%C3%BC%C3%9F",
		"日\t本":             "%E6%97%A5%09%E6%9C%AC",
		"😀":                "%F0%9F%98%80",
		" lead and trail ": "%20lead and trail%20",
		" ":                "%20",
		"  ":               "%20%20",
		"a\xffb":           "a%EF%BF%BDb",
		"\xc3":             "%EF%BF%BD",
		"%41":              "%2541",
	} {
		if got := wire.EncodeMessage(in); got != want {
			t.Errorf("EncodeMessage(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDecodeMessage(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":             "",
		"plain":        "plain",
		"a%20b":        "a b",
		"%c3%bc%C3%9f": "üß",
		"%":            "%",
		"%%":           "%%",
		"%4":           "%4",
		"%4g":          "%4g",
		"%g4":          "%g4",
		"%%41":         "%A",
		"%4%41":        "%4A",
		"%41%":         "A%",
		"%41%4":        "A%4",
		"x%zz%41%zz":   "x%zzA%zz",
		"%2541":        "%41",
		"%ff":          "\xff",
		"%+1":          "%+1",
		"é%41":         "éA",
	} {
		if got := wire.DecodeMessage(in); got != want {
			t.Errorf("DecodeMessage(%q) = %q, want %q", in, got, want)
		}
	}
}

// fitsHeader says whether a grpc-message may stand in a header as it is.
func fitsHeader(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return strings.Trim(s, " ") == s
}

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.String(),
			rapid.StringMatching(`[ %0-9A-Fa-g]*`),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		).Draw(t, "s")
		enc := wire.EncodeMessage(s)
		if !fitsHeader(enc) {
			t.Fatalf("%q is encoded as %q, which is no header value", s, enc)
		}
		// Conversion to runes is what puts U+FFFD where s is not UTF-8.
		if got, want := wire.DecodeMessage(enc), string([]rune(s)); got != want {
			t.Fatalf("%q comes back as %q, want %q", s, got, want)
		}
	})
}

// decodeSlowly is DecodeMessage as one would write it down from its
// description.
func decodeSlowly(s string) string {
	const hex = "0123456789abcdef"
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi := strings.IndexByte(hex, s[i+1]|0x20)
			lo := strings.IndexByte(hex, s[i+2]|0x20)
			letterOrDigit := func(c byte) bool { return c >= '0' }
			if hi >= 0 && lo >= 0 && letterOrDigit(s[i+1]) && letterOrDigit(s[i+2]) {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func FuzzDecodeMessage(f *testing.F) {
	for _, s := range []string{"", "%", "%41", "%4%41", "%%", "gr%C3%BC", "%ff%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := wire.DecodeMessage(s)
		if want := decodeSlowly(s); got != want {
			t.Fatalf("DecodeMessage(%q) = %q, want %q", s, got, want)
		}
		enc := wire.EncodeMessage(got)
		if !fitsHeader(enc) {
			t.Fatalf("%q is encoded as %q, which is no header value", got, enc)
		}
		if utf8.ValidString(got) && wire.DecodeMessage(enc) != got {
			t.Fatalf("%q comes back as %q", got, wire.DecodeMessage(enc))
		}
	})
}

func BenchmarkEncodeMessagePlain(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		wire.EncodeMessage("no instance of greeter may take the RPC: all 3 refuse connections")
	}
}

func BenchmarkDecodeMessagePlain(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		wire.DecodeMessage("no instance of greeter may take the RPC: all 3 refuse connections")
	}
}

func BenchmarkDecodeMessageEncoded(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		wire.DecodeMessage("gr%C3%BC%C3%9F Gott, and 100%25 more")
	}
}
