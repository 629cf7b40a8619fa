package report

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: go test -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("%s has changed (go test -update writes it anew)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	broken := usual()
	broken.Variants[2].Units = 9000
	broken.Crossed = 900
	early := results(1, [3]uint64{90, 52, 41}, [3][3]made{
		{{0.99, 0.06}, {0.99, 0.06}, {0.99, 0.06}}, {{0.04, 0.01}, {0.04, 0.01}, {0.04, 0.01}}, {{31, 40}, {31, 40}, {31, 40}},
	})
	early.Sampled = 0.125
	for name, a := range map[string]*Analysis{
		"usual": Analyze(experiment(), usual()), "mismatch": Analyze(experiment(), broken), "early": Analyze(experiment(), early), "empty": Analyze(experiment(), nil),
	} {
		var text, json strings.Builder
		if err := a.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.String())
		if name != "usual" && name != "empty" {
			continue
		}
		thin(a)
		if err := a.WriteJSON(&json); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", json.String())
	}
}

// thin leaves most of the series and the histograms out.
func thin(a *Analysis) {
	for i := range a.Measures {
		for k := range a.Measures[i].Variants {
			if v := &a.Measures[i].Variants[k]; len(v.Histogram) > 3 {
				v.Histogram = v.Histogram[:3]
			}
		}
		for k := range a.Measures[i].Comparisons {
			if c := &a.Measures[i].Comparisons[k]; len(c.Series) > 1 {
				c.Series = c.Series[len(c.Series)-1:]
			}
		}
	}
}

func TestGoldenPlan(t *testing.T) {
	t.Parallel()
	e := experiment()
	e.Holdout = 1000
	p, err := NewPlan(e, map[string]Baseline{"success": {Mean: 0.991}, "latency": {Mean: 0.042, Deviation: 0.011}, "basket-value": {Mean: 31, Deviation: 40}}, 5000)
	if err != nil {
		t.Fatal(err)
	}
	var text, json strings.Builder
	if err := p.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.txt", text.String())
	if err := p.WriteJSON(&json); err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", json.String())
}
