package identity_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	for pattern, ids := range map[string][]string{ // "!" before those that it does not match
		"spiffe://*":                     {"spiffe://example.org/a", "spiffe://other.org/a/b", "spiffe://example.org"},
		"spiffe://example.org":           {"spiffe://example.org/a", "spiffe://example.org/a/b", "!spiffe://example.org.evil/a", "!spiffe://xexample.org/a", "!spiffe://other.org/example.org"},
		"spiffe://example.org/svc/web":   {"spiffe://example.org/svc/web", "!spiffe://example.org/svc/web2", "!spiffe://example.org/svc/we", "!spiffe://example.org/svc/web/a", "!spiffe://example.org/svc", "!spiffe://other.org/svc/web"},
		"spiffe://example.org/*/web":     {"spiffe://example.org/svc/web", "spiffe://example.org/a/web", "!spiffe://example.org/web", "!spiffe://example.org/a/b/web", "!spiffe://example.org/a/web/b"},
		"spiffe://example.org/svc/*":     {"spiffe://example.org/svc/web", "!spiffe://example.org/svc", "!spiffe://example.org/svc/web/a", "!spiffe://example.org/svca/web"},
		"spiffe://example.org/svc/**":    {"spiffe://example.org/svc/web", "spiffe://example.org/svc/web/a/b", "!spiffe://example.org/svc", "!spiffe://example.org/svcs/web", "!spiffe://other.org/svc/web"},
		"spiffe://example.org/**":        {"spiffe://example.org/svc", "spiffe://example.org/svc/web", "!spiffe://example.org", "!spiffe://other.org/svc"},
		"spiffe://example.org/*/a/*/**":  {"spiffe://example.org/x/a/y/z", "!spiffe://example.org/x/a/y", "!spiffe://example.org/x/b/y/z"},
		"spiffe://example.org/Svc/we.b_": {"spiffe://example.org/Svc/we.b_", "!spiffe://example.org/svc/we.b_", "!spiffe://example.org/Svc/wexb_"},
	} {
		p, err := identity.ParsePattern(pattern)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		if p.String() != pattern || p.Matches(spiffeid.ID{}) {
			t.Errorf("%s is %q, and matches no ID: %v", pattern, p, p.Matches(spiffeid.ID{}))
		}
		for _, text := range ids {
			text, not := strings.CutPrefix(text, "!")
			if got := p.Matches(spiffeid.RequireFromString(text)); got == not {
				t.Errorf("%s matches %s: %v", pattern, text, got)
			}
		}
		exact, ok := p.Exact()
		if want := strings.Count(pattern, "/") > 2 && !strings.Contains(pattern, "*"); ok != want || ok && exact.String() != pattern {
			t.Errorf("%s is exactly %q, %v", pattern, exact, ok)
		}
	}
	if (identity.Pattern{}).Matches(spiffeid.RequireFromString("spiffe://a/b")) {
		t.Error("the zero Pattern matches")
	}
}

func TestPatternRefuses(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"":                             "does not begin with spiffe://",
		"*":                            "does not begin with spiffe://",
		"web":                          "does not begin with spiffe://",
		"spiffe://":                    "no trust domain",
		"spiffe://*.org":               "not of a trust domain",
		"spiffe://*/svc/web":           "not of a trust domain",
		"spiffe://**":                  "not of a trust domain",
		"spiffe://example.org/":        "empty segment",
		"spiffe://example.org/svc//*":  "empty segment",
		"spiffe://example.org/**/web":  "only be its last segment",
		"spiffe://example.org/svc/w*":  `not for a part of one as in "w*"`,
		"spiffe://example.org/svc/***": `not for a part of one as in "***"`,
		"spiffe://example.org/../*":    "dots alone",
		"spiffe://Example.org/*":       "'E'",
		"spiffe://example.org/a b":     "' '",
		"spiffe://e/" + strings.Repeat("*/", 1024) + "*": "2048 is the most",
	} {
		p, err := identity.ParsePattern(pattern)
		if err == nil || !strings.Contains(err.Error(), want) || p != (identity.Pattern{}) {
			t.Errorf("%q: %q, %v; want an error about %q", pattern, p, err, want)
		}
	}
}

// oracle matches by a regular expression, segments by themselves.
func oracle(pattern, id string) bool {
	rest, ok := strings.CutPrefix(pattern, "spiffe://")
	if !ok {
		return false
	}
	if rest == "*" {
		return true
	}
	segments := strings.Split(rest, "/")
	expression := regexp.QuoteMeta("spiffe://" + segments[0])
	if len(segments) == 1 {
		expression += "(/.*)?"
	}
	for _, segment := range segments[1:] {
		switch segment {
		case "*":
			expression += "/[^/]+"
		case "**":
			expression += "/.+"
		default:
			expression += "/" + regexp.QuoteMeta(segment)
		}
	}
	return regexp.MustCompile("^" + expression + "$").MatchString(id)
}

func FuzzPattern(f *testing.F) {
	for _, pattern := range []string{"spiffe://*", "spiffe://a", "spiffe://a/b", "spiffe://a/*/c", "spiffe://a/b/**", "spiffe://a/**", "spiffe://a/*/*", "spiffe://a/**/b"} {
		for _, id := range []string{"spiffe://a", "spiffe://a/b", "spiffe://a/b/c", "spiffe://a/b/c/d", "spiffe://b/b/c"} {
			f.Add(pattern, id)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		p, err := identity.ParsePattern(pattern)
		// What a pattern without stars is, an ID is, and the other way round.
		if _, idErr := identity.ParseID(pattern); !strings.Contains(pattern, "*") && (idErr == nil) != (err == nil) {
			t.Errorf("%q as a pattern: %v, as an ID: %v", pattern, err, idErr)
		}
		id, idErr := identity.ParseID(text)
		if err != nil || idErr != nil {
			return
		}
		if got, want := p.Matches(id), oracle(pattern, text); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, text, got, want)
		}
		if exact, ok := p.Exact(); ok && (exact == id) != p.Matches(id) {
			t.Errorf("%q is exactly %s, and matches %s: %v", pattern, exact, id, p.Matches(id))
		}
	})
}

func TestMatchesDoesNotAllocate(t *testing.T) {
	p, err := identity.ParsePattern("spiffe://example.org/*/svc/**")
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString("spiffe://example.org/a/svc/web/x")
	if n := testing.AllocsPerRun(100, func() {
		if !p.Matches(id) {
			t.Fatal("does not match")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
