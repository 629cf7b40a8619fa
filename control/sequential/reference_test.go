package sequential

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

// triple is a sample's units, mean and variance, or a group's share and variance.
type triple [3]float64

func (t triple) sample() Sample {
	return Sample{Units: uint64(t[0]), Mean: t[1], Variance: t[2]}
}

// reference is what testdata/reference.py worked out with SciPy.
type reference struct {
	Welch []struct {
		Alpha, P, Nu, Low, High float64
		Control, Variant        triple
	}
	Means []struct {
		Alpha, Scale, LogE, Low, High float64
		RelativeLow, RelativeHigh     *float64
		Control, Variant              triple
	}
	Narrowest []struct{ Alpha, Y float64 }
	Crossing  []struct {
		Alpha, Drift, Chance float64
		Looks                int
	}
	Fixed []struct {
		Alpha, Power, Effect, Drift float64
		Control, Variant            [2]float64
		Units                       uint64
	}
	Exceeds []struct {
		Limit, LogE    float64
		RPCs, Failures uint64
	}
	Labels []struct {
		Ratio, LogE float64
		Blocks      [][5]float64
	}
	SampleRatio []struct {
		Units           []uint64
		Weights         []float64
		LogE, ChiSquare float64
	}
	Holm []struct{ P, Corrected []float64 }
}

// TestReference checks all against results that SciPy got in other ways.
func TestReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var want reference
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	checked, tolerance := 0, 1e-9
	same := func(what string, got, want float64) {
		t.Helper()
		checked++
		if !(math.Abs(got-want) <= tolerance*max(1, math.Abs(want))) {
			t.Errorf("%s: %.15g, SciPy has %.15g", what, got, want)
		}
	}
	for _, c := range want.Welch {
		interval, p, nu := Welch(c.Alpha, c.Control.sample(), c.Variant.sample())
		same("Welch's p", p, c.P)
		same("Welch's degrees of freedom", nu, c.Nu)
		same("Welch's lower bound", interval.Low, c.Low)
		same("Welch's upper bound", interval.High, c.High)
	}
	for _, c := range want.Means {
		m := Means{Scale: c.Scale}
		same("evidence of means", m.LogE(c.Control.sample(), c.Variant.sample()), c.LogE)
		d := m.Difference(c.Alpha, c.Control.sample(), c.Variant.sample())
		same("lower bound", d.Low, c.Low)
		same("upper bound", d.High, c.High)
		r := m.Relative(c.Alpha, c.Control.sample(), c.Variant.sample())
		for _, side := range []struct {
			got  float64
			want *float64
		}{{r.Low, c.RelativeLow}, {r.High, c.RelativeHigh}} {
			if side.want == nil {
				if !math.IsInf(side.got, 0) {
					t.Errorf("a bound of the relative difference is %v, SciPy has none", side.got)
				}
				continue
			}
			same("bound of the relative difference", side.got, *side.want)
		}
	}
	for _, c := range want.Narrowest {
		same("narrowest", narrowest(c.Alpha), c.Y)
	}
	for _, c := range want.Crossing {
		same("chance of a finding", Crossing(c.Alpha, c.Drift, c.Looks)[c.Looks-1], c.Chance)
	}
	for _, c := range want.Fixed {
		drift := FixedDrift(c.Alpha, c.Power)
		same("fixed drift", drift, c.Drift)
		same("units", float64(Units(drift, c.Effect, Group{c.Control[0], c.Control[1]}, Group{c.Variant[0], c.Variant[1]})), float64(c.Units))
	}
	for _, c := range want.Exceeds {
		test := must(NewExceeds(c.Limit))
		test.Add(c.RPCs, c.Failures)
		same("evidence of a limit", test.LogE(), c.LogE)
	}
	for _, c := range want.Labels {
		test := must(NewLabels(c.Ratio))
		for _, b := range c.Blocks {
			test.Add(LabelCounts{Share: b[0], CanaryEvents: uint64(b[1]), StableEvents: uint64(b[2]), CanaryRPCs: uint64(b[3]), StableRPCs: uint64(b[4])})
		}
		same("evidence of labels", test.LogE(), c.LogE)
	}
	tolerance = 1e-8 // These are differences of logarithms of a million's factorial.
	for _, c := range want.SampleRatio {
		got := SampleRatio(c.Units, c.Weights)
		same("evidence of a sample ratio mismatch", got, c.LogE)
		// A test that may be looked at always claims no more than the one for a single look.
		if P(got) < c.ChiSquare {
			t.Errorf("units %v: p = %v, and chi-squared has %v", c.Units, P(got), c.ChiSquare)
		}
	}
	tolerance = 1e-9
	for _, c := range want.Holm {
		for i, p := range Holm(c.P) {
			same("corrected p", p, c.Corrected[i])
		}
	}
	if checked != 78 {
		t.Errorf("only %d figures were compared", checked)
	}
}
