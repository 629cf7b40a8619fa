package h2

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Eight characters at a time come to the same as one by one, wherever a character
// stands and whatever is beside it.
func TestValidValueLooksAtEachCharacter(t *testing.T) {
	t.Parallel()
	for _, filler := range []string{"a", " ", "\t", "\x80", "\xff", "~", "!"} {
		for n := range 20 {
			for c := range 256 {
				for at := range n {
					s := strings.Repeat(filler, at) + string([]byte{byte(c)}) + strings.Repeat(filler, n-at-1)
					if got, want := validValue(s), (c >= ' ' || c == '\t') && c != 0x7f; got != want {
						t.Fatalf("%q: valid is %t, want %t", s, got, want)
					}
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(rapid.SampledFrom([]byte("a \t\x00\x1f\x7f\x80\xff")), 0, 40).Draw(t, "value"))
		if got, want := validValue(s), validChars(s); got != want {
			t.Fatalf("%q: valid is %t, want %t", s, got, want)
		}
	})
}

// What the decoder's table says of fields changes nothing about what is made of a
// header section.
func TestFieldsFromTheTableAreJudgedAlike(t *testing.T) {
	t.Parallel()
	fields := []hpack.Field{
		{Name: "", Value: "x"}, {Name: "UPPER", Value: "x"}, {Name: "x\x00", Value: "x"}, {Name: "x", Value: "\r\n"},
		{Name: "x", Value: "y"}, {Name: "x", Value: ""}, {Name: "te", Value: "trailers"}, {Name: "te", Value: "gzip"},
		{Name: "host", Value: ""}, {Name: "host", Value: "a"}, {Name: "content-length", Value: "1"},
		{Name: "content-length", Value: "2"}, {Name: "content-length", Value: "x"}, {Name: "upgrade", Value: "x"},
		{Name: "connection", Value: "x"}, {Name: "keep-alive", Value: "x"}, {Name: "proxy-connection", Value: "x"},
		{Name: "transfer-encoding", Value: "x"}, {Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/a"}, {Name: ":path", Value: "/\x7f"}, {Name: ":authority", Value: "b"},
		{Name: ":status", Value: "200"}, {Name: ":status", Value: "2x0"}, {Name: ":unknown", Value: "x"},
	}
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.SampledFrom(fields), 0, 6).Draw(t, "fields")
		if rapid.Bool().Draw(t, "request") {
			list = append([]hpack.Field{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}}, list...)
		}
		vetted := make([]hpack.Field, len(list))
		for i, f := range list {
			vetted[i] = f
			vetted[i].Vetted = harmless(f.Name, f.Value)
		}
		for name, check := range map[string]func(*Head) (int64, string){
			"request": (*Head).checkRequest, "response": (*Head).checkResponse,
			"trailers": func(h *Head) (int64, string) { return -1, h.checkTrailers() },
		} {
			one, other := Head{block: &hpack.Block{Fields: list}}, Head{block: &hpack.Block{Fields: vetted}}
			length, bad := check(&one)
			vettedLength, vettedBad := check(&other)
			if (bad == "") != (vettedBad == "") || bad == "" && (length != vettedLength || one.Authority != other.Authority || one.Path != other.Path) {
				t.Fatalf("%s: %q, %d, %q; from the table %q, %d, %q", name, bad, length, one.Authority, vettedBad, vettedLength, other.Authority)
			}
		}
	})
}
