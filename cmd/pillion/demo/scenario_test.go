package demo

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// The policies of all stories are in order, however quickly they are told.
func TestPolicies(t *testing.T) {
	t.Parallel()
	texts := map[string]bool{abPolicies(5000, 5000): true, retryPolicies: true}
	for _, s := range stories {
		for _, d := range []time.Duration{shortest, storyDuration} {
			texts[s.policies(pace(d))] = true
		}
	}
	delete(texts, "")
	for text := range texts {
		check(t, text)
	}
	for _, d := range []time.Duration{shortest, storyDuration} {
		text := pace(d).canary("greeter-v2", "v1", "v2") // TestVerdicts reads the experiments
		f, err := configyaml.ParseDocuments("documents.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if _, refused := policy.Compile(f.Effective.GetPolicies(), nil, policy.Env{}); len(refused) > 0 {
			t.Errorf("%v\n%s", refused, text)
		}
	}
}

func check(t *testing.T, policies string) {
	t.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte("services: {greeter: {}}\n"+policies))
	if err != nil {
		t.Fatalf("%v\n%s", err, policies)
	}
	_, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
	for _, r := range refused {
		t.Errorf("%v\n%s", r, policies)
	}
	for _, w := range policy.Warnings(mesh.GetPolicies(), []string{"greeter"}) {
		t.Errorf("%v\n%s", w, policies)
	}
}

// Each story can be told: its acts are in order, and it says what it shows.
func TestStories(t *testing.T) {
	t.Parallel()
	for name, s := range stories {
		if !slices.IsSortedFunc(s.acts, func(a, b act) int { return cmp.Compare(a.at, b.at) }) {
			t.Errorf("%q: its acts are not in order", name)
		}
		for _, a := range s.acts {
			if a.at <= 0 || a.at >= 1 {
				t.Errorf("%q: act %q is at %v of it", name, a.what, a.at)
			}
		}
		if (s.play == nil) == (len(s.acts) == 0) {
			t.Errorf("%q is told by acts, or played: one of both", name)
		}
		if name != plain && (s.short == "" || s.note == nil) {
			t.Errorf("%q does not say what it shows", name)
		}
	}
	if _, err := scenarioOf("abc"); err == nil || !strings.Contains(err.Error(), `"abc": choose one of ab, breaker, canary, experiment, outlier, retry`) {
		t.Errorf("a story that there is not: %v", err)
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		story   time.Duration
		seconds float64
		want    string
	}{
		{time.Minute, 4, "4s"},
		{6 * time.Second, 4, "0.4s"},
		{10 * time.Second, 4, "0.67s"},
		{6 * time.Second, 0.5, "0.1s"},
	} {
		if got := pace(c.story).of(c.seconds); got != c.want {
			t.Errorf("%v seconds in a story of %v are %s, want %s", c.seconds, c.story, got, c.want)
		}
	}
}

// What did not come as it should stands out.
func TestSummary(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	f := newFigures()
	f.by["a"], f.failures["Unavailable"], f.latencies = 3, 1, []time.Duration{time.Millisecond}
	summarize(&out, totals{figures: f, ok: 3, failed: 1}, []string{"a", "b"}, 0, []string{"greeter a was called"}, []finding{{true, "it rains"}, {false, "it snows"}})
	const want = `
4 RPCs: 3 OK, 1 failed. greeter a answered 3. greeter b answered 0. p50 1.00 ms, p99 1.00 ms.
Failed: Unavailable 1.
greeter a was called.
✓ it rains
✗ not so: it snows
`
	if out.String() != want {
		t.Errorf("it says:\n%s", &out)
	}
}

// A line tells of each greeter what the bars would show, a picture never is wider than
// a terminal.
func TestScreen(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	f := newFigures()
	f.latencies = []time.Duration{2 * time.Millisecond}
	note := strings.Repeat("a note ", 20)
	newScreen(&out, false, []string{"a", "b"}).second(time.Second, f, map[string]int{"a": 7}, "a note")
	if want := "   1s   a    7  b    0   p50   2.00 ms  p99   2.00 ms   all OK   a note\n"; out.String() != want {
		t.Errorf("the line is %q, want %q", &out, want)
	}
	out.Reset()
	live := newScreen(&out, true, []string{"a", "b"})
	live.event(note)
	for range 2 {
		live.second(time.Second, f, map[string]int{"a": 7, "b": 7}, note)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, line := range lines {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d characters: %q", n, line)
		}
	}
	drawn := live.drawn
	live.say("$ pillion apply\n")
	if live.drawn != 0 || !strings.HasSuffix(out.String(), fmt.Sprintf("\x1b[%dA\x1b[J$ pillion apply\n", drawn)) {
		t.Errorf("what stays is not written instead of the picture: %q", out.String())
	}
	if drawn != len(lines)/2 {
		t.Errorf("it clears %d lines of %d", drawn, len(lines)/2)
	}
}
