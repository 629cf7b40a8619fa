package wire_test

import (
	"math"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// What the gRPC protocol says of a field (PROTOCOL-HTTP2.md, "Requests" and
// "Responses"), as a regular expression or a loop: both readings must agree.

var timeoutGrammar = regexp.MustCompile(`^([0-9]{1,8})([HMSmun])$`)

var timeoutUnits = map[string]time.Duration{
	"H": time.Hour, "M": time.Minute, "S": time.Second,
	"m": time.Millisecond, "u": time.Microsecond, "n": time.Nanosecond,
}

func FuzzTimeoutGrammar(f *testing.F) {
	for _, s := range []string{"", "0n", "1S", "99999999H", "2562048H", "2562047H", "123456789n", "-1S", "1x", "1S\n", "٣S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := wire.ParseTimeout(s)
		parts := timeoutGrammar.FindStringSubmatch(s)
		if strings.HasSuffix(s, "\n") || parts == nil {
			if err == nil {
				t.Fatalf("%q is taken for %v", s, got)
			}
			if strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 300 {
				t.Fatalf("%q: the error is %q", s, err)
			}
			return
		}
		n, _ := new(big.Int).SetString(parts[1], 10)
		n.Mul(n, big.NewInt(int64(timeoutUnits[parts[2]])))
		want := time.Duration(math.MaxInt64)
		if n.IsInt64() {
			want = time.Duration(n.Int64())
		}
		if err != nil || got != want {
			t.Fatalf("%q is %v (%v), want %v", s, got, err, want)
		}
	})
}

func FuzzAppendTimeout(f *testing.F) {
	for _, d := range []int64{0, -1, 1, 99_999_999, 100_000_000, math.MaxInt64, math.MinInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		s := string(wire.AppendTimeout(nil, d))
		got, err := wire.ParseTimeout(s)
		if !timeoutGrammar.MatchString(s) || err != nil || got < d || d > 0 && got-d > d/100_000+1 || d <= 0 && got != 0 {
			t.Fatalf("%d is written %q, and read as %d (%v)", n, s, got, err)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	for _, s := range []string{"", "0", "16", "17", "00", "007", "-1", "+1", " 1", "99999999999999999999999", "18446744073709551616"} {
		f.Add(s)
	}
	digits := regexp.MustCompile(`^0*([0-9]|1[0-6])$`)
	f.Fuzz(func(t *testing.T, s string) {
		want := codes.Unknown
		if parts := digits.FindStringSubmatch(s); parts != nil && !strings.HasSuffix(s, "\n") {
			n, _ := new(big.Int).SetString(parts[1], 10)
			want = codes.Code(n.Uint64())
		}
		got := wire.ParseStatus(s)
		if got != want {
			t.Fatalf("%q is %v, want %v", s, got, want)
		}
		if wire.StatusName(got) == "" {
			t.Fatalf("%v has no name", got)
		}
	})
}

// FuzzEncodeMessage: any text arrives as it was, but for bytes that are no UTF-8,
// and in a field that every HTTP/2 implementation takes.
func FuzzEncodeMessage(f *testing.F) {
	for _, s := range []string{"", " ", "  a ", "%", "ü", "\xff\xc3", "a\r\nb: c", "\x7f", "\u2028", "%41", "a\x00b"} {
		f.Add(s)
	}
	allowed := regexp.MustCompile(`^([!-$&-~]|%[0-9A-F]{2})(([ -$&-~]|%[0-9A-F]{2})*([!-$&-~]|%[0-9A-F]{2}))?$`)
	f.Fuzz(func(t *testing.T, s string) {
		encoded := wire.EncodeMessage(s)
		if encoded != "" && !allowed.MatchString(encoded) {
			t.Fatalf("%q is encoded as %q", s, encoded)
		}
		if got := wire.DecodeMessage(encoded); got != string([]rune(s)) || !utf8.ValidString(got) {
			t.Fatalf("%q comes back as %q", s, got)
		}
	})
}

func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"", "/", "//", "/a/b", "/a/", "//b", "/a/b/c", "a/b", "/a", "/\x00/\xff"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`(?s)\A/(.+)/([^/]+)\z`)
	f.Fuzz(func(t *testing.T, s string) {
		service, method, ok := wire.SplitPath(s)
		if !utf8.ValidString(s) { // the expression works on runes
			if ok && "/"+service+"/"+method != s {
				t.Fatalf("%q is %q and %q", s, service, method)
			}
			return
		}
		parts := grammar.FindStringSubmatch(s)
		if ok != (parts != nil) || ok && (service != parts[1] || method != parts[2]) {
			t.Fatalf("%q is %q and %q (%v), want %q", s, service, method, ok, parts)
		}
	})
}

func FuzzIsGRPC(f *testing.F) {
	for _, s := range []string{"application/grpc", "Application/GRPC+proto", "application/grpc-web", "application/grpc;a", "application/grp"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`(?is)\Aapplication/grpc([+;].*)?\z`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := wire.IsGRPC(s); got != grammar.MatchString(s) {
			t.Fatalf("%q: %v", s, got)
		}
	})
}
