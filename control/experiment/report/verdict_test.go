package report

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// one is an experiment of two halves by one measure, and what it has come to.
func one(m *configv1.Measure, control, variant made, units uint64) (*configv1.Experiment, *meshv1.ResultsResponse) {
	e := &configv1.Experiment{
		Name: "one", Service: "shop", Measures: []*configv1.Measure{m},
		Variants: []*configv1.Variant{{Name: "a", Weight: 5000}, {Name: "b", Weight: 5000}},
	}
	r := &meshv1.ResultsResponse{Sampled: 1, Sidecars: 1}
	for i, x := range []made{control, variant} {
		r.Variants = append(r.Variants, &meshv1.VariantResults{
			Name: []string{"a", "b"}[i], Units: units,
			Measures: []*meshv1.MeasureResults{{Units: units, Mean: x.mean, Variance: x.deviation * x.deviation}},
		})
	}
	return e, r
}

// A report says what is lost, and nothing of that where nothing is.
func TestWhatIsLostIsNoted(t *testing.T) {
	t.Parallel()
	measure := &configv1.Measure{Of: &configv1.Measure_Success{}}
	for lost, want := range map[uint32]string{0: "", 1: "What 1 sidecar had counted of about 1,234 units is lost", 2: "What 2 sidecars had counted"} {
		e, r := one(measure, made{0.98, 0.1}, made{0.99, 0.1}, 10_000)
		r.LostSidecars, r.LostUnits = lost, 1234
		notes := strings.Join(Analyze(e, r).Notes, "\n")
		if !strings.Contains(notes, want) || strings.Contains(notes, "lost") != (lost > 0) {
			t.Errorf("with %d lost the notes are %q", lost, notes)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	latency := &configv1.Measure{Of: &configv1.Measure_Latency{Latency: &configv1.LatencyMeasure{Cap: durationpb.New(time.Minute)}}}
	success := &configv1.Measure{Of: &configv1.Measure_Success{}}
	sold := &configv1.Measure{Of: &configv1.Measure_Reported{Reported: "sold"}}
	returned := &configv1.Measure{Of: &configv1.Measure_Reported{Reported: "returned"}, Better: "lower"}
	strict := proto.CloneOf(sold)
	strict.MinEffect = new(0.001)
	for name, c := range map[string]struct {
		measure          *configv1.Measure
		control, variant made
		units            uint64
		want             Verdict
	}{
		"more success":                    {success, made{0.98, 0.1}, made{0.99, 0.1}, 10000, Better},
		"less success":                    {success, made{0.99, 0.1}, made{0.98, 0.1}, 10000, Worse},
		"slower":                          {latency, made{0.1, 0.05}, made{0.12, 0.05}, 10000, Worse},
		"faster":                          {latency, made{0.12, 0.05}, made{0.1, 0.05}, 10000, Better},
		"more is sold":                    {sold, made{10, 5}, made{11, 5}, 10000, Better},
		"more is returned":                {returned, made{10, 5}, made{11, 5}, 10000, Worse},
		"of few, the same is not shown":   {sold, made{10, 5}, made{11, 5}, 200, Open},
		"of very few nothing is claimed":  {sold, made{10, 0.1}, made{20, 0.1}, LeastUnits - 1, TooFew},
		"of just enough something is":     {sold, made{10, 0.1}, made{20, 0.1}, LeastUnits, Better},
		"the same, of many":               {sold, made{10, 5}, made{10.001, 5}, 100000, Negligible},
		"the same, where little matters":  {strict, made{10, 5}, made{10.001, 5}, 100000, Open},
		"all alike":                       {success, made{1, 0}, made{1, 0}, 10000, Open},
		"a gain that is a loss as often":  {sold, made{0.001, 5}, made{1, 5}, 10000, Better},
		"losses that are less":            {sold, made{-10, 5}, made{-9, 5}, 10000, Better},
		"figures that cannot be":          {sold, made{10, 5}, made{math.NaN(), 5}, 10000, Open},
		"figures that cannot be, further": {sold, made{10, math.Inf(1)}, made{20, 5}, 10000, Open},
	} {
		a := Analyze(one(c.measure, c.control, c.variant, c.units))
		got := a.Measures[0].Comparisons[0]
		if got.Verdict != c.want {
			t.Errorf("%s: %q, want %q (p = %v, interval %v)", name, got.Verdict, c.want, got.P, got.RelativeInterval)
		}
		if claims := got.Interval.Low > 0 || got.Interval.High < 0; claims != (c.want == Better || c.want == Worse) {
			t.Errorf("%s: the verdict is %q, and the interval %v", name, got.Verdict, got.Interval)
		}
	}
}

// TestMismatch holds that units which are divided wrongly are no basis for any verdict.
func TestMismatch(t *testing.T) {
	t.Parallel()
	e, r := one(&configv1.Measure{Of: &configv1.Measure_Success{}}, made{0.9, 0.1}, made{0.95, 0.1}, 10000)
	if a := Analyze(e, r); a.SampleRatio.Mismatch || a.Measures[0].Comparisons[0].Verdict != Better {
		t.Fatalf("mismatch: %v, verdict %q", a.SampleRatio, a.Measures[0].Comparisons[0].Verdict)
	}
	r.Variants[1].Units = 9000
	a := Analyze(e, r)
	if !a.SampleRatio.Mismatch || a.Measures[0].Comparisons[0].Verdict != None {
		t.Errorf("10,000 to 9,000 instead of half and half: mismatch %v, verdict %q", a.SampleRatio, a.Measures[0].Comparisons[0].Verdict)
	}
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "no verdicts") {
		t.Errorf("it is not said why there is no verdict: %q", a.Notes)
	}
}

// TestManyComparisons holds that what is enough for one comparison is not for many.
func TestManyComparisons(t *testing.T) {
	t.Parallel()
	sold := &configv1.Measure{Of: &configv1.Measure_Reported{Reported: "sold"}}
	e, r := one(sold, made{10, 5}, made{10.45, 5}, 3000)
	alone := Analyze(e, r)
	if v := alone.Measures[0].Comparisons[0].Verdict; v != Better {
		t.Fatalf("alone: %q, p = %v", v, alone.Measures[0].Comparisons[0].P)
	}
	for range 9 {
		e.Measures = append(e.Measures, sold)
		for i := range r.Variants {
			r.Variants[i].Measures = append(r.Variants[i].Measures, &meshv1.MeasureResults{Units: 3000, Mean: 10, Variance: 25})
		}
	}
	many := Analyze(e, r)
	if v := many.Measures[0].Comparisons[0].Verdict; v != Open {
		t.Errorf("among ten measures: %q", v)
	}
	if a, b := alone.Measures[0].Comparisons[0], many.Measures[0].Comparisons[0]; !(b.Interval.Low < a.Interval.Low && b.Corrected > a.Corrected) {
		t.Errorf("alone %v, among ten %v", a.Interval, b.Interval)
	}
}

func TestBaselinesOfResults(t *testing.T) {
	t.Parallel()
	known := Baselines(experiment(), usual())
	p, err := NewPlan(experiment(), known, 0)
	if err != nil {
		t.Fatal(err)
	}
	// What is planned with what came of it is what the report says it takes, but for the
	// variant's deviation, which is not known beforehand.
	a := Analyze(experiment(), usual())
	for i, m := range p.Measures {
		for k, v := range m.Variants {
			if got := a.Measures[i].Comparisons[k].PlannedUnits; math.Abs(float64(got)/float64(v.Units)-1) > 0.2 && v.Units > 400 {
				t.Errorf("%s, %s: planned are %d, the report says %d", m.Name, v.Variant, v.Units, got)
			}
		}
	}
	if len(Baselines(experiment(), nil)) != 0 {
		t.Error("no results have baselines")
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	good := map[string]Baseline{"success": {Mean: 0.99}, "latency": {Mean: 0.1, Deviation: 0.1}, "basket-value": {Mean: 30, Deviation: 20}}
	for name, c := range map[string]struct {
		measure  string
		baseline Baseline
		perDay   float64
		want     string
	}{
		"one that is not known":    {"margin", Baseline{Mean: 1, Deviation: 1}, 0, `no measure "margin"`},
		"no deviation":             {"latency", Baseline{Mean: 0.1}, 0, "by how much units differ"},
		"a mean of 0":              {"basket-value", Baseline{Deviation: 1}, 0, "its mean is 0"},
		"a part over 1":            {"success", Baseline{Mean: 99}, 0, "between 0 and 1"},
		"nothing fails":            {"success", Baseline{Mean: 1}, 0, "a little less than 1"},
		"not a number":             {"latency", Baseline{Mean: math.NaN(), Deviation: 1}, 0, "not known figures"},
		"a negative deviation":     {"latency", Baseline{Mean: 1, Deviation: -1}, 0, "not known figures"},
		"negative units per day":   {"latency", good["latency"], -1, "units per day"},
		"not a number of them":     {"latency", good["latency"], math.NaN(), "units per day"},
		"infinitely many per day":  {"latency", good["latency"], math.Inf(1), "units per day"},
		"nothing wrong, for a try": {"latency", good["latency"], 0, ""},
	} {
		with := maps.Clone(good)
		with[c.measure] = c.baseline
		_, err := NewPlan(experiment(), with, c.perDay)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := NewPlan(experiment(), nil, 0); err == nil || !strings.Contains(err.Error(), `measure "success"`) {
		t.Errorf("nothing is known: %v", err)
	}
	e := experiment()
	e.Variants[2].Weight = 0
	p, err := NewPlan(e, good, 100)
	if err != nil {
		t.Fatal(err)
	}
	if p.Units != 0 || p.Duration != 0 || p.Measures[0].Variants[0].Units == 0 {
		t.Errorf("a variant without units can be compared: %d units, %v", p.Units, p.Duration)
	}
	e.Layer = &configv1.Layer{Name: "all", Start: 2000, End: proto.Uint32(4000)}
	e.Holdout = 5000
	if p, err = NewPlan(e, good, 100); err != nil || math.Abs(float64(p.Part)-0.1) > 1e-9 {
		t.Errorf("half are held out, and of the others a fifth takes part: %v, %v", p.Part, err)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{value(Success, 0.9912), "99.12 %"},
		{value(Success, 0.99999), "99.999 %"},
		{value(Latency, 0.0421), "42.1 ms"},
		{value(Latency, 12), "12 s"},
		{value(Latency, 0.00001), "10 µs"},
		{value(Reported, 1234567), "1,234,567"},
		{value(Reported, -1234.5), "-1,234"},
		{value(Reported, 0.5), "0.5"},
		{value(Reported, 1e12), "1.000e+12"},
		{value(Reported, math.NaN()), "-"},
		{value(Success, math.Inf(-1)), "-∞"},
		{difference(Success, 0.0002), "+0.02 pp"},
		{difference(Success, 0.000002), "+0.0002 pp"},
		{difference(Latency, -0.003), "-3 ms"},
		{relative(0.1), "+10 %"},
		{relative(-0.1234), "-12.34 %"},
		{percent(0.05), "5 %"},
		{percent(20), "2,000 %"},
		{count(1234567), "1,234,567"},
		{count(0), "0"},
		{pEquals(0.00001), "p < 0.0001"},
		{pEquals(0.5), "p = 0.50"},
		{pValue(0.0312), "0.0312"},
		{lasting(30 * time.Second), "1 minute"},
		{lasting(36 * time.Hour), "36.0 hours"},
		{lasting(1000 * 24 * time.Hour), "2.7 years"},
		{lasting(century), "more than a century"},
		{short("control"), "control"},
		{short("a-very-long-name"), "a-very-long-…"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// An app that reports under another name than the experiment asks for is found out before
// weeks have passed.
func TestSaysThatNothingIsReported(t *testing.T) {
	t.Parallel()
	sold := &configv1.Measure{Name: "revenue", Of: &configv1.Measure_Reported{Reported: "sold"}, PerUnit: "sum"}
	latency := &configv1.Measure{Of: &configv1.Measure_Latency{}}
	for name, c := range map[string]struct {
		measure          *configv1.Measure
		control, variant made
		units            uint64
		want             bool
	}{
		"nothing":             {sold, made{}, made{}, 500, true},
		"of too few":          {sold, made{}, made{}, LeastUnits / 4, false},
		"in one variant":      {sold, made{}, made{0.01, 1}, 500, false},
		"as much for each":    {sold, made{0, 1}, made{}, 500, false},
		"it is not reported":  {latency, made{}, made{}, 500, false},
		"something, for each": {sold, made{3, 2}, made{3, 2}, 500, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := Analyze(one(c.measure, c.control, c.variant, c.units))
			if said := strings.Contains(strings.Join(a.Notes, "\n"), "but 0 for revenue: does the app set the trailer pillion-measure-sold?"); said != c.want {
				t.Errorf("%q", a.Notes)
			}
		})
	}
	e, r := one(sold, made{}, made{}, 500)
	for _, v := range r.GetVariants() { // of a mean there are no units where nothing is reported
		v.Measures = []*meshv1.MeasureResults{{}}
	}
	if a := Analyze(e, r); !strings.Contains(strings.Join(a.Notes, "\n"), "does the app set") {
		t.Errorf("%q", a.Notes)
	}
}
