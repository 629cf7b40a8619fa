package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSelectorsSelectWhatTheySay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text      string
		yes, no   []string
		canonical string
	}{
		{"*", []string{sayHello, "/x", ""}, nil, "*"},
		{"helloworld.Greeter/SayHello", []string{sayHello}, []string{sayHello + "2", "/helloworld.Greeter/Say", "helloworld.Greeter/SayHello"}, ""},
		{"helloworld.Greeter", []string{sayHello, "/helloworld.Greeter/"}, []string{"/helloworld.Greeter", "/helloworld.Greeter2/SayHello"}, ""},
		{"helloworld.Greeter/Say*", []string{sayHello, "/helloworld.Greeter/Say"}, []string{"/helloworld.Greeter/Sing"}, ""},
		{"helloworld.Greeter/*", []string{sayHello}, []string{"/helloworld.Greeter2/SayHello"}, "helloworld.Greeter"},
		{"helloworld.*", []string{sayHello}, []string{"/helloworld/SayHello"}, ""},
		{"hello*", []string{sayHello, "/hello"}, []string{"/hell"}, ""},
	} {
		s, err := parseSelector(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if want := c.canonical; want == "" && s.String() != c.text || want != "" && s.String() != want {
			t.Errorf("%s is written as %s", c.text, s)
		}
		for _, path := range c.yes {
			if !s.selects(path) {
				t.Errorf("%s does not select %q", c.text, path)
			}
		}
		for _, path := range c.no {
			if s.selects(path) {
				t.Errorf("%s selects %q", c.text, path)
			}
		}
	}
}

func TestSelectorsThatSelectNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "/a.B/C", "a*b", "**", "a.B/", "a/b/c", "a/b/*"} {
		if s, err := parseSelector(text); err == nil {
			t.Errorf("%q is taken for %q", text, s)
		}
	}
}

// drawSelector draws from few letters, so that selectors nest and collide.
func drawSelector(t *rapid.T, label string) selector {
	text := rapid.SampledFrom([]string{
		"*", "a*", "aa*", "a", "a/*", "a/a", "a/a*", "a/ab", "a/ab*", "a/aba", "ab", "ab/a", "ab/a*", "aab/a", "b", "b/b", "b/bb", "b/b*", "bb/*",
	}).Draw(t, label)
	s, err := parseSelector(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return s
}

func drawPath(t *rapid.T, label string) string {
	return rapid.StringMatching(`/[ab]{1,3}/[ab]{1,3}`).Draw(t, label)
}

func TestTablesFindTheMostExactSelector(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := map[selector]selector{}
		for range rapid.IntRange(0, 30).Draw(t, "selectors") {
			s := drawSelector(t, "selector")
			values[s] = s
		}
		table := newTable(values)
		for range 20 {
			path := drawPath(t, "path")
			var want selector
			any := false
			for s := range values {
				if s.selects(path) && (!any || s.compare(want) > 0) {
					want, any = s, true
				}
			}
			got, found := table.find(path)
			if found != any || got != want {
				t.Fatalf("%q is found under %q (%v), but the most exact of %v is %q (%v)", path, got, found, values, want, any)
			}
		}
	})
}

func TestSelectorsCoverWhatIsSelectedByBoth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, path := drawSelector(t, "a"), drawSelector(t, "b"), drawPath(t, "path")
		if a.covers(b) && b.selects(path) && !a.selects(path) {
			t.Fatalf("%q covers %q, but only that selects %q", a, b, path)
		}
		if a.selects(path) && b.selects(path) && !a.overlaps(b) {
			t.Fatalf("%q and %q overlap in %q", a, b, path)
		}
	})
}

func TestServicesOfPaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{sayHello: "/helloworld.Greeter/", "/a/b/c": "/a/", "": "", "/": "", "/a": "", "//": "//", "//b": "//"} {
		if got := grpcService(path); got != want {
			t.Errorf("the service of %q is %q, not %q", path, got, want)
		}
	}
}

// A thousand prefixes cost what a binary search costs, and no more.
func BenchmarkTable(b *testing.B) {
	values := map[selector]int{}
	for i := range 1000 {
		values[selector{path: "/pkg" + strings.Repeat("x", i%10) + string(rune('a'+i%26)) + strings.Repeat("y", i/100)}] = i
	}
	table := newTable(values)
	paths := slices.Repeat([]string{sayHello, "/pkgxxc/Method", "/zzz/Method"}, 10)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.find(paths[i%len(paths)])
	}
}
