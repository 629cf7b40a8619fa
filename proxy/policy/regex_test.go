package policy

import (
	"encoding/base64"
	"strings"
	"testing"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func regexCondition(tb testing.TB, key, regex string) *condition {
	p := fresh()
	c := p.compileCondition("c", &configv1.MetadataMatch{Key: key, Condition: &configv1.MetadataMatch_Regex{Regex: regex}}, false)
	if len(p.list) > 0 {
		tb.Fatal(p.list)
	}
	return &c
}

// Values that are too long match nothing, however many fields they come in.
func TestLongValuesMatchNoRegex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		regex   string
		longest int
	}{{"a*", 4096}, {"a*b?.{200}", 315}} {
		plain, binary := regexCondition(t, "a", c.regex), regexCondition(t, "a-bin", c.regex)
		if plain.longest != c.longest {
			t.Errorf("%s is tried on %d bytes, want %d", c.regex, plain.longest, c.longest)
		}
		for n, want := range map[int]bool{c.longest: true, c.longest + 1: false, 60_000: false} {
			value := strings.Repeat("a", n)
			encoded := base64.StdEncoding.EncodeToString([]byte(value))
			joined := fields("a: "+value[:n/2], "a: "+value[n/2+1:]) // a comma between
			lists := map[string]bool{
				"plain":  plain.holds(asked(fields("a: "+value)), nil),
				"joined": regexCondition(t, "a", strings.Replace(c.regex, "a*", "[a,]*", 1)).holds(asked(joined), nil),
				"bytes":  binary.holds(asked(fields("a-bin: "+encoded)), nil),
			}
			for name, holds := range lists {
				if holds != want {
					t.Errorf("%s, %s, %d bytes: %v", c.regex, name, n, holds)
				}
			}
			for _, list := range []*condition{plain, binary} {
				text := list.why(fields("a: "+value, "a-bin: "+encoded))
				if strings.Contains(text, "is tried on") == want {
					t.Errorf("%s, %d bytes: %s", c.regex, n, text)
				}
			}
		}
		// Many values count together, and each for more than its bytes.
		no := base64.StdEncoding.EncodeToString([]byte("x"))
		yes := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("a", 200)))
		if few := "a-bin: " + no + "," + yes; !binary.holds(asked(fields(few)), nil) {
			t.Errorf("%s: the second of two values does not match", c.regex)
		}
		if many := "a-bin: " + strings.Repeat(no+",", 300) + yes; binary.holds(asked(fields(many)), nil) {
			t.Errorf("%s is tried on 300 values", c.regex)
		}
	}
}

// BenchmarkRegexAtWorst are the worst that were found within the bounds.
func BenchmarkRegexAtWorst(b *testing.B) {
	for _, regex := range []string{`.*a.{100}b.{100}c`, `.*(?:[\pL\pN]|[^\pM]){110}c`, `(?:(?:a|b|aa|\pL)*){30}c`, `.*a.{20}c`, `.*\pL{4}c`, `.*[\pL\pN].{220}c`} {
		b.Run(regex, func(b *testing.B) {
			c := regexCondition(b, "a", regex)
			list := fields("a: " + strings.Repeat("a", c.longest))
			for b.Loop() {
				if c.holds(asked(list), nil) {
					b.Fatal("it matches")
				}
			}
		})
	}
}
