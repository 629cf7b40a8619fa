package regex

import (
	"strings"
	"testing"
	"time"
)

func TestMatchesWholeTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		regex, text   string
		matches, told bool
	}{
		{"acme|initech", "acme", true, true},
		{"acme|initech", "acme-test", false, true},
		{"a.*", "a" + strings.Repeat("b", longest), false, false},
		{"a.*", "c" + strings.Repeat("b", longest), false, true}, // known by how it begins
		{"", "", true, true},
		{".*", "two\nlines", false, true},
	} {
		r, err := Compile(c.regex)
		if err != nil {
			t.Fatal(err)
		}
		if matches, told := r.Match(c.text); matches != c.matches || told != c.told {
			t.Errorf("%q of %.20q: %v, %v", c.regex, c.text, matches, told)
		}
	}
}

func TestExpressionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for regex, says := range map[string]string{
		"a)|(b":                   "RE2",
		"(":                       "RE2",
		`(a)\1`:                   "RE2",
		"(?:[a-z]{1,100}@){1,10}": "takes ",
	} {
		if _, err := Compile(regex); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", regex, err)
		}
	}
}

// What is looked at is less where each byte may cost more.
func TestLongest(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"a*": 4096, "a*b?.{200}": 315} {
		r, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if r.Longest() != want || want*instructions(r.whole.String()) > steps {
			t.Errorf("%s is tried on %d bytes, want %d", text, r.Longest(), want)
		}
		for n, want := range map[int]bool{want: true, want + 1: false} {
			if _, told := r.Match(strings.Repeat("a", n)); told != want {
				t.Errorf("%s is tried on %d bytes: %v", text, n, told)
			}
		}
	}
}

// The longest text that is looked at takes a millisecond at most, with room for a slow
// machine.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	r, err := Compile("(x+x+)+y" + strings.Repeat("(a|b)?", 80))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", r.Longest())
	best := time.Hour
	for range 20 {
		begin := time.Now()
		if _, told := r.Match(text); !told {
			t.Fatal("the longest text is too long")
		}
		best = min(best, time.Since(begin))
	}
	if best > 30*time.Millisecond { // the race detector makes it ten times slower
		t.Errorf("it takes %v", best)
	}
}
