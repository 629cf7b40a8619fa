package report

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/control/sequential"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// LeastUnits is how many units with a value both sides of a comparison must have
	// before anything is claimed: what the tests say holds for many units.
	LeastUnits = 100
	// sampleRatioRisk is the risk of a false alarm that units are divided wrongly. It is
	// small, since what is wrong with that is never a matter of chance alone.
	sampleRatioRisk = 0.001
	// manyCrossed is the part of units in several variants from which on it is said.
	manyCrossed = 0.01
)

// Verdict is what a comparison comes to.
type Verdict string

// The verdicts.
const (
	// Better and Worse say that the variant differs from the control, and how.
	Better Verdict = "better"
	Worse  Verdict = "worse"
	// Open says that no difference is shown yet, which is not that there is none.
	Open Verdict = "open"
	// Negligible says that no difference is shown, and that one there may be is smaller
	// than what matters (min_effect).
	Negligible Verdict = "negligible"
	// TooFew says that there are less than LeastUnits on a side.
	TooFew Verdict = "too_few_units"
	// None says that nothing can be said, since units are not divided as they should be.
	None Verdict = "none"
)

// Analysis is what the results of an experiment mean. Its JSON is stable: fields are added
// and never renamed.
type Analysis struct {
	Name    string `json:"name"`
	Service string `json:"service"`
	// Phase is "running", "ended" or "" (not known).
	Phase   string    `json:"phase"`
	Started time.Time `json:"started,omitzero"`
	// Time is when this was counted.
	Time time.Time `json:"time,omitzero"`
	// Sidecars is how many counted.
	Sidecars uint32 `json:"sidecars"`
	// Sampled is the part of all units that is in the comparison, from 0 to 1, and Units
	// how many these are.
	Sampled Number `json:"sampled"`
	Units   uint64 `json:"units"`
	// Crossed is how many units were left out, since they were seen in several variants.
	Crossed uint64 `json:"crossed"`
	// LostSidecars is how many sidecars were gone, with what they had counted, when another
	// one was elected to add up, and LostUnits about how many units they had counted.
	LostSidecars uint32 `json:"lost_sidecars,omitempty"`
	LostUnits    uint64 `json:"lost_units,omitempty"`
	// FalseAlarm is the risk that any of the verdicts is false, however often one looks,
	// and IntervalRisk the part of it that each interval has (Bonferroni): all of them
	// hold at all times with a chance of 1-FalseAlarm.
	FalseAlarm   float64 `json:"false_alarm"`
	IntervalRisk float64 `json:"interval_risk"`
	// Power is the chance that PlannedUnits are about.
	Power float64 `json:"power"`
	// SampleRatio says whether units are divided as the weights say.
	SampleRatio SampleRatio `json:"sample_ratio"`
	// Variants are all, the control first.
	Variants []Variant `json:"variants"`
	// Measures are what is compared.
	Measures []Measure `json:"measures"`
	// Notes are what else one should know, a sentence each.
	Notes []string `json:"notes"`
}

// SampleRatio says whether units are divided as the weights say.
type SampleRatio struct {
	// P is the always-valid p-value of that they are.
	P Number `json:"p"`
	// Mismatch says that they are not. There are no verdicts then.
	Mismatch bool `json:"mismatch"`
}

// Variant is how many units a variant has.
type Variant struct {
	Name    string `json:"name"`
	Control bool   `json:"control"`
	Units   uint64 `json:"units"`
	// Share is its part of all units, and Weight the part that it should have.
	Share  Number `json:"share"`
	Weight Number `json:"weight"`
}

// Measure is one thing that is compared.
type Measure struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// PerUnit is what a unit's RPCs come to: their "mean" or "sum".
	PerUnit string `json:"per_unit"`
	// Better is "higher" or "lower".
	Better string `json:"better"`
	// MinEffect is the least difference that matters, as a part of the control's mean.
	MinEffect float64 `json:"min_effect"`
	// Variants are by variant.
	Variants []Moments `json:"variants"`
	// Comparisons are of each variant but the control, with the control.
	Comparisons []Comparison `json:"comparisons"`

	reported string // what the app calls it; empty: it is not the app that says it
}

// Moments are what a measure came to in a variant.
type Moments struct {
	Variant string `json:"variant"`
	// Units are those that have a value.
	Units uint64 `json:"units"`
	// Mean is over units, Deviation the standard deviation between them; null: unknown.
	Mean      Number `json:"mean"`
	Deviation Number `json:"deviation"`
	// Histogram is how many units each of its equal bins has, from Low to High.
	Low       Number   `json:"low"`
	High      Number   `json:"high"`
	Histogram []uint64 `json:"histogram"`
}

// Comparison is of a variant with the control.
type Comparison struct {
	Variant string `json:"variant"`
	// Difference is the variant's mean less the control's, and Interval the confidence
	// sequence: it holds however often one looks. Null: it is not known, or has no bound.
	Difference Number `json:"difference"`
	Interval   Range  `json:"interval"`
	// Relative is the same as a part of the control's mean.
	Relative         Number `json:"relative"`
	RelativeInterval Range  `json:"relative_interval"`
	// P is the always-valid p-value of no difference, as it is now, and Corrected what is
	// left of it with that many comparisons (Holm). The verdict follows from the latter.
	P         Number  `json:"p"`
	Corrected Number  `json:"corrected_p"`
	Verdict   Verdict `json:"verdict"`
	// Negligible says that the interval has only differences smaller than MinEffect.
	Negligible bool `json:"negligible"`
	// PlannedUnits is how many units all variants need together to find a difference of
	// MinEffect, as the measure varies; 0: that is not known, or more than anyone has.
	// Units is how many they have, on the whole.
	PlannedUnits uint64 `json:"planned_units"`
	// Welch is the classical interval, and its p-value, which hold for a single look at a
	// time that was fixed before: for reference, and not to be looked at twice.
	Welch  Range  `json:"fixed_horizon_interval"`
	WelchP Number `json:"fixed_horizon_p"`
	// Series is how the comparison stood earlier, the last point now.
	Series []Point `json:"series"`
}

// Point is how a comparison stood at one time.
type Point struct {
	Time       time.Time `json:"time"`
	Difference Number    `json:"difference"`
	Interval   Range     `json:"interval"`
}

// Analyze says what the results of an experiment mean. Results that do not fit the
// document, such as measures that are missing, count as nothing.
func Analyze(e *configv1.Experiment, r *meshv1.ResultsResponse) *Analysis {
	a := &Analysis{
		Name: e.GetName(), Service: e.GetService(),
		Phase:      phase(r.GetState().GetPhase()),
		Sidecars:   r.GetSidecars(),
		Sampled:    Number(r.GetSampled()),
		Crossed:    r.GetCrossed(),
		FalseAlarm: falseAlarm(e),
		LostUnits:  r.GetLostUnits(), LostSidecars: r.GetLostSidecars(),
		Power: power(e),
		Notes: []string{},
	}
	a.IntervalRisk = sequential.Bonferroni(a.FalseAlarm, comparisons(e))
	if t := r.GetState().GetStarted(); t != nil {
		a.Started = t.AsTime()
	}
	if t := r.GetTime(); t != nil {
		a.Time = t.AsTime()
	}
	a.divide(e, r)
	drift := sequential.Drift(a.IntervalRisk, a.Power)
	for i, s := range settings(e) {
		a.Measures = append(a.Measures, a.measure(e, r, i, s, drift))
	}
	a.decide()
	a.note()
	return a
}

// divide says how units are divided.
func (a *Analysis) divide(e *configv1.Experiment, r *meshv1.ResultsResponse) {
	units, weights := make([]uint64, len(e.GetVariants())), make([]float64, len(e.GetVariants()))
	total := 0.0
	for i, v := range e.GetVariants() {
		weights[i] = float64(v.GetWeight())
		total += weights[i]
		if i < len(r.GetVariants()) {
			units[i] = r.GetVariants()[i].GetUnits()
			a.Units += units[i]
		}
	}
	for i, v := range e.GetVariants() {
		a.Variants = append(a.Variants, Variant{
			Name: v.GetName(), Control: i == 0, Units: units[i],
			Share: Number(float64(units[i]) / float64(a.Units)), Weight: Number(weights[i] / total),
		})
	}
	p := sequential.P(sequential.SampleRatio(units, weights))
	a.SampleRatio = SampleRatio{P: Number(p), Mismatch: p <= sampleRatioRisk}
}

// decide gives all comparisons their verdict, which they depend on each other for.
func (a *Analysis) decide() {
	var all []*Comparison
	var p []float64
	for i := range a.Measures {
		for k := range a.Measures[i].Comparisons {
			c := &a.Measures[i].Comparisons[k]
			all, p = append(all, c), append(p, float64(c.P))
		}
	}
	for i, corrected := range sequential.Holm(p) {
		c := all[i]
		c.Corrected = Number(corrected)
		switch lower := c.Verdict == Better; { // see measure
		case a.SampleRatio.Mismatch:
			c.Verdict = None
		case c.Verdict == TooFew:
		case corrected > a.FalseAlarm && c.Negligible:
			c.Verdict = Negligible
		case corrected > a.FalseAlarm:
			c.Verdict = Open
		case lower:
			c.Verdict = Better
		default:
			c.Verdict = Worse
		}
	}
}

// note says what else one should know.
func (a *Analysis) note() {
	say := func(format string, args ...any) { a.Notes = append(a.Notes, fmt.Sprintf(format, args...)) }
	if a.SampleRatio.Mismatch {
		var shares []string
		for _, v := range a.Variants {
			shares = append(shares, fmt.Sprintf("%s has %s of the units instead of %s", printable(v.Name), percent(float64(v.Share)), percent(float64(v.Weight))))
		}
		say("Units are not divided as the weights say (%s): %s. Something removes or adds units depending on their variant, so what is left cannot be compared, and there are no verdicts. Look for a variant that loses RPCs or crashes, for retries that lack the unit, and for weights that were changed while it ran.", pEquals(float64(a.SampleRatio.P)), strings.Join(shares, ", "))
	}
	if s := float64(a.Sampled); s > 0 && s < 1 {
		say("There were too many units to keep all of them: this is about a sample of %s, chosen by hash.", percent(s))
	}
	if a.LostSidecars > 0 {
		who := "sidecars"
		if a.LostSidecars == 1 {
			who = "sidecar"
		}
		say("What %d %s had counted of about %s units is lost: they were gone when another sidecar was elected to add up, and it has no control.state_dir where it could have kept that. Units that others have counted too are here still, with less.", a.LostSidecars, who, count(a.LostUnits))
	}
	if all := a.Units + a.Crossed; a.Crossed > 0 && float64(a.Crossed) >= manyCrossed*float64(all) {
		say("%s of the units were seen in several variants and are left out. That is so for a while where weights or the salt have been changed, or where a unit's key does not stay the same.", percent(float64(a.Crossed)/float64(all)))
	}
	few := false
	for _, m := range a.Measures {
		if a.Units >= LeastUnits && m.silent() {
			say("No RPC has reported anything but 0 for %s: does the app set the trailer pillion-measure-%s?", printable(m.Name), printable(m.reported))
		}
		for _, c := range m.Comparisons {
			few = few || c.Verdict == TooFew
		}
	}
	if few {
		say("Nothing is claimed before both sides of a comparison have %d units with a value.", LeastUnits)
	}
}

// silent says that the app should report the measure, and that nothing of it was seen: a
// sum is 0 then, and of a mean there is none.
func (m *Measure) silent() bool {
	for _, v := range m.Variants {
		if v.Units > 0 && (v.Mean != 0 || v.Deviation > 0) {
			return false
		}
	}
	return m.reported != ""
}

// measure compares by one measure. The verdicts that it returns say the direction alone.
func (a *Analysis) measure(e *configv1.Experiment, r *meshv1.ResultsResponse, number int, s setting, drift float64) Measure {
	m := Measure{Name: s.name, Kind: s.kind, PerUnit: s.perUnit, Better: s.better(), MinEffect: s.minEffect, reported: s.reported}
	results := make([]*meshv1.MeasureResults, len(e.GetVariants()))
	for i, v := range e.GetVariants() {
		if i < len(r.GetVariants()) && number < len(r.GetVariants()[i].GetMeasures()) {
			results[i] = r.GetVariants()[i].GetMeasures()[number]
		}
		moments := Moments{Variant: v.GetName(), Units: results[i].GetUnits(), Mean: Number(math.NaN()), Deviation: Number(math.NaN())}
		if moments.Units > 0 {
			moments.Mean = Number(results[i].GetMean())
			moments.Low, moments.High, moments.Histogram = Number(results[i].GetLow()), Number(results[i].GetHigh()), results[i].GetBins()
		}
		if moments.Units > 1 {
			moments.Deviation = Number(math.Sqrt(results[i].GetVariance()))
		}
		m.Variants = append(m.Variants, moments)
	}
	for i, v := range e.GetVariants() {
		if i == 0 {
			continue
		}
		c := a.compare(s, drift, sample(results[0]), sample(results[i]))
		c.Variant = v.GetName()
		if base := tuningBase(sample(results[0])); base > 0 {
			c.PlannedUnits = bounded(sequential.Units(drift, s.minEffect*base,
				sequential.Group{Share: share(e, 0), Variance: results[0].GetVariance()},
				sequential.Group{Share: share(e, i), Variance: results[i].GetVariance()}))
		}
		c.Series = a.series(r, number, i, s, drift)
		if !a.Time.IsZero() && c.Difference.Known() {
			c.Series = append(c.Series, Point{a.Time, c.Difference, c.Interval})
		}
		m.Comparisons = append(m.Comparisons, c)
	}
	return m
}

// series is how a comparison stood earlier.
func (a *Analysis) series(r *meshv1.ResultsResponse, measure, variant int, s setting, drift float64) []Point {
	points := []Point{}
	for _, p := range r.GetSeries() {
		at := func(v int) sequential.Sample {
			if v >= len(p.GetVariants()) || measure >= len(p.GetVariants()[v].GetMeasures()) {
				return sequential.Sample{}
			}
			return sample(p.GetVariants()[v].GetMeasures()[measure])
		}
		t := p.GetTime().AsTime()
		if c := a.compare(s, drift, at(0), at(variant)); c.Difference.Known() && (a.Time.IsZero() || t.Before(a.Time)) {
			points = append(points, Point{t, c.Difference, c.Interval})
		}
	}
	return points
}

// phase is what an experiment's phase is called.
func phase(p controlv1.Phase) string {
	switch p {
	case controlv1.Phase_PHASE_RUNNING, controlv1.Phase_PHASE_PAUSED:
		return "running"
	case controlv1.Phase_PHASE_UNSPECIFIED:
		return ""
	}
	return "ended"
}
