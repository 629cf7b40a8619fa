package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// elements returns how many elements of each kind a page has, or fails where it is not
// well-formed. Scripts, and anything that is loaded from elsewhere, fail too.
func elements(t interface {
	Helper()
	Fatalf(string, ...any)
}, page string) map[string]int {
	t.Helper()
	count := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		count[start.Name.Local]++
		for _, a := range start.Attr {
			if name := strings.ToLower(a.Name.Local); strings.HasPrefix(name, "on") || name == "src" || name == "href" || name == "style" {
				t.Fatalf("<%s> has %s=%q", start.Name.Local, name, a.Value)
			}
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Fatalf("<%s> has %s=%q", start.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
}

func htmlOf(t interface{ Fatal(...any) }, a *Analysis) string {
	var b strings.Builder
	if err := a.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestHTML(t *testing.T) {
	t.Parallel()
	page := htmlOf(t, Analyze(experiment(), usual()))
	if path := os.Getenv("PILLION_REPORT_PAGE"); path != "" { // to look at it
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count := elements(t, page)
	// Of three measures: two comparisons over time, and three distributions, each.
	if count["svg"] != 3*(2+3) || count["clipPath"] != 3*2 {
		t.Errorf("there are %d plots, %d of them over time", count["svg"], count["clipPath"])
	}
	for _, text := range []string{"basket-size", "ideas-v2", "+8.55 %", "+7.21 % to +9.9 %", `class="verdict worse">worse<`, `class="verdict better">better<`, "prefers-color-scheme: dark"} {
		if !strings.Contains(page, strings.ReplaceAll(text, "+", "&#43;")) && !strings.Contains(page, text) {
			t.Errorf("the page does not say %q", text)
		}
	}
	broken := usual()
	broken.Variants[2].Units = 9000
	if page := htmlOf(t, Analyze(experiment(), broken)); !strings.Contains(page, "Units are not divided as the weights say") || strings.Contains(page, `verdict better`) {
		t.Error("units are divided wrongly, and the page says who is better")
	}
	if count := elements(t, htmlOf(t, Analyze(experiment(), nil))); count["svg"] != 0 || count["section"] != 3 {
		t.Errorf("without results the page has %v", count)
	}
}

// TestHostile has names and figures that whoever writes documents and counts could choose
// with bad intentions, had nobody checked them.
func TestHostile(t *testing.T) {
	t.Parallel()
	nasty := `"><script>alert(1)</script>` + "\x1b[31m</style><svg onload='x'>{{.}}\u202e"
	e := experiment()
	e.Name, e.Service, e.Variants[1].Name, e.Measures[0].Name = nasty, nasty, nasty, nasty
	a := Analyze(e, usual())
	if count := elements(t, htmlOf(t, a)); count["script"] > 0 || count["svg"] != 15 {
		t.Errorf("a name has become part of the page: %v", count)
	}
	var text strings.Builder
	if err := a.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text.String(), "\x1b\u202e") {
		t.Errorf("a name can drive the terminal: %q", text.String())
	}
	rapid.Check(t, func(t *rapid.T) {
		figure := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, 5e-324}))
		number := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300))
		r := usual()
		r.Sampled, r.Series = figure.Draw(t, "sampled"), r.GetSeries()[:4]
		for _, v := range r.GetVariants()[:rapid.IntRange(0, 3).Draw(t, "variants")] {
			v.Units = number.Draw(t, "units")
			for _, m := range v.GetMeasures() {
				m.Units, m.Mean, m.Variance = number.Draw(t, "units"), figure.Draw(t, "mean"), figure.Draw(t, "variance")
				m.Low, m.High = figure.Draw(t, "low"), figure.Draw(t, "high")
				m.Bins = rapid.SliceOfN(number, 0, 5).Draw(t, "bins")
			}
		}
		for _, p := range r.GetSeries() {
			for _, v := range p.GetVariants() {
				v.Measures = append(v.Measures[:rapid.IntRange(0, 3).Draw(t, "measures")], &meshv1.MeasurePoint{Units: number.Draw(t, "units"), Mean: figure.Draw(t, "mean"), Variance: figure.Draw(t, "variance")})
			}
		}
		e := &configv1.Experiment{Name: "x"}
		if rapid.Bool().Draw(t, "whole") {
			e = experiment()
		}
		a := Analyze(e, r)
		elements(t, htmlOf(t, a))
		if err := a.WriteJSON(io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := a.WriteText(io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}
