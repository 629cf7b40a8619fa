package identity_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

func TestParseID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"spiffe://example.org/svc/web":                "",
		"spiffe://example.org":                        "",
		"spiffe://1-2_3.consul/ns/d/dc/D1/svc/W.e-b_": "",
		"spiffe://e/...":                              "",
		"spiffe://" + strings.Repeat("a", 255) + "/x": "",
		"spiffe://e/" + strings.Repeat("a", 2048-11):  "",
		"spiffe://" + strings.Repeat("a", 256) + "/x": "its trust domain has 256 bytes, and 255 is the most",
		"spiffe://e/" + strings.Repeat("a", 2048-10):  "it has 2049 bytes, and 2048 is the most",
		"":                                                     "does not begin with spiffe://",
		"SPIFFE://example.org/svc/web":                         "does not begin with spiffe://",
		"spiffe:/example.org/svc/web":                          "does not begin with spiffe://",
		"spiffe:///svc/web":                                    "no trust domain",
		"spiffe://example.org/":                                "empty segment",
		"spiffe://example.org//web":                            "empty segment",
		"spiffe://example.org/web/":                            "empty segment",
		"spiffe://example.org/./web":                           "dots alone",
		"spiffe://example.org/../web":                          "dots alone",
		"spiffe://example.org/w*b":                             "'*'",
		"spiffe://example.org/wéb":                             "'Ã'",
		"spiffe://example.org/web\x00":                         `'\x00'`,
		"spiffe://example.org/web\n":                           `'\n'`,
		"spiffe://example.org#x":                               "'#'",
		"spiffe://exam ple.org/web":                            "' '",
		"spiffe://example.org\\web":                            `'\\'`,
		"spiffe://example.org/" + strings.Repeat("a?", 10_000): "20021 bytes",
	} {
		id, err := identity.ParseID(text)
		switch {
		case want == "" && (err != nil || id.String() != text):
			t.Errorf("%q: %v, %v", text, id, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !id.IsZero()):
			t.Errorf("%q: %q, %v; want an error about %q", text, id, err, want)
		case err != nil && (len(err.Error()) > 500 || strings.Contains(err.Error(), "\n")):
			t.Errorf("the error is not one short line: %q", err)
		}
	}
}

// FuzzParseID holds the parser against go-spiffe's, which has no bounds of length.
func FuzzParseID(f *testing.F) {
	for _, text := range []string{"spiffe://example.org/svc/web", "spiffe://a", "spiffe://a/", "spiffe://a/..", "spiffe://A/b", "spiffe://a/b%20", "x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := identity.ParseID(text)
		want, wantErr := spiffeid.FromString(text)
		if wantErr == nil && (len(text) > 2048 || len(want.TrustDomain().Name()) > 255) {
			if err == nil {
				t.Errorf("%q is taken, in spite of its length", text)
			}
			return
		}
		if (err == nil) != (wantErr == nil) || got != want {
			t.Errorf("%q: %v, %v; go-spiffe says %v, %v", text, got, err, want, wantErr)
		}
	})
}
