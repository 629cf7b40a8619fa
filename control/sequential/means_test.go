package sequential

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMeansFindADifference holds that what is planned for comes true: with as many units
// as Units says, a difference is found as often as power says, and the interval covers it.
func TestMeansFindADifference(t *testing.T) {
	t.Parallel()
	const alpha, power, effect, experiments = 0.05, 0.8, 0.2, 500
	drift := Drift(alpha, power)
	units := Units(drift, 10*effect, Group{0.5, 100}, Group{0.5, 100 * (1 + effect) * (1 + effect)})
	w := aaWorld{units: int(units), variant: 0.5, unit: func(r *rand.Rand) float64 { return 10 + 10*r.NormFloat64() }, effect: effect}
	m := Means{Scale: PlannedScale(alpha, drift, 10*effect)}
	found, outside := 0, 0
	for i := range uint64(experiments) {
		hit, missed := false, false
		w.play(rand.New(rand.NewPCG(11, i)), func(control, variant Sample) {
			hit = hit || P(m.LogE(control, variant)) <= alpha
			d, r := m.Difference(alpha, control, variant), m.Relative(alpha, control, variant)
			missed = missed || d.Low > 10*effect || d.High < 10*effect || r.Low > effect || r.High < effect
		})
		if hit {
			found++
		}
		if missed {
			outside++
		}
	}
	t.Logf("planned %d units: found %.1f %%, not covered at some time %.1f %%", w.units, 100*float64(found)/experiments, 100*float64(outside)/experiments)
	if math.Abs(float64(found)/experiments-power) > 0.05 {
		t.Errorf("%d of %d are found, planned was %v", found, experiments, power)
	}
	if outside > experiments*alpha {
		t.Errorf("%d of %d intervals do not cover the difference at some time", outside, experiments)
	}
}

// TestCrossingAgreesWithSimulation plays the process that Crossing works out.
func TestCrossingAgreesWithSimulation(t *testing.T) {
	t.Parallel()
	const alpha, looks, runs = 0.05, 50, 4000
	for _, drift := range []float64{0, 3} {
		want := Crossing(alpha, drift, looks)[looks-1]
		hits := 0
		r := rand.New(rand.NewPCG(12, 12))
		for range runs {
			x := 0.0
			for k := range looks {
				x += drift/looks + r.NormFloat64()/math.Sqrt(looks)
				if math.Abs(x) >= tunedEdge(alpha, float64(k+1)/looks) {
					hits++
					break
				}
			}
		}
		got, off := float64(hits)/runs, math.Sqrt(want*(1-want)/runs)
		t.Logf("drift %v: worked out %.4f, simulated %.4f ± %.4f", drift, want, got, off)
		if math.Abs(got-want) > 4*off {
			t.Errorf("drift %v: worked out %v, simulated %v", drift, want, got)
		}
	}
	// The bound of Ville's inequality is 5 %; with ever more looks the chance nears the one
	// of never ceasing to look, up to the planned end.
	if fifty, more := Crossing(alpha, 0, 50)[49], Crossing(alpha, 0, 400)[399]; !(fifty < more && more < alpha) {
		t.Errorf("false alarms with 50 looks %v, with 400 %v", fifty, more)
	}
}

// TestMeansAgree holds that p-value, interval and relative interval never contradict each
// other, and that the tuned scale is the best.
func TestMeansAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sample := func(name string) Sample {
			return Sample{
				Units:    rapid.Uint64Range(2, 1e6).Draw(t, name+" units"),
				Mean:     rapid.Float64Range(-100, 100).Draw(t, name+" mean"),
				Variance: rapid.Float64Range(1e-6, 1e4).Draw(t, name+" variance"),
			}
		}
		control, variant := sample("control"), sample("variant")
		alpha := rapid.Float64Range(1e-6, 0.5).Draw(t, "alpha")
		m := Means{Scale: rapid.Float64Range(1e-3, 1e3).Draw(t, "scale")}
		claims := P(m.LogE(control, variant)) < alpha*(1-1e-9)
		close := math.Abs(P(m.LogE(control, variant))/alpha-1) < 1e-6
		d, r := m.Difference(alpha, control, variant), m.Relative(alpha, control, variant)
		if outside := d.Low > 0 || d.High < 0; outside != claims && !close {
			t.Fatalf("p = %v at %v, the interval is %v", P(m.LogE(control, variant)), alpha, d)
		}
		if outside := r.Low > 0 || r.High < 0; outside != claims && !close && r != everything() {
			t.Fatalf("p = %v at %v, the relative interval is %v", P(m.LogE(control, variant)), alpha, r)
		}
		c, v := careful(control, variant)
		best := Means{Scale: TunedScale(alpha, math.Sqrt(c.squaredError()+v.squaredError()))}.Difference(alpha, control, variant)
		if best.High-best.Low > (d.High-d.Low)*(1+1e-9) {
			t.Fatalf("tuned, the interval is %v, and with the scale %v it is %v", best, m.Scale, d)
		}
		if w, _, _ := Welch(alpha, control, variant); control.Units > 100 && variant.Units > 100 && w.High-w.Low > best.High-best.Low {
			t.Fatalf("an interval for one look is wider, %v, than one for all, %v", w, best)
		}
	})
}

// TestMeansOfNothing holds that without data, nothing is claimed.
func TestMeansOfNothing(t *testing.T) {
	t.Parallel()
	some := Sample{Units: 100, Mean: 1, Variance: 1}
	for _, s := range []Sample{{}, {Units: 1, Mean: 5}, {Units: 100, Mean: math.NaN(), Variance: 1}, {Units: 100, Mean: math.Inf(1), Variance: 1}, {Units: 100, Mean: 100, Variance: math.NaN()}, {Units: 100, Mean: 100, Variance: math.Inf(1)}, {Units: 100, Mean: 100, Variance: -1}} {
		m := Means{Scale: 1}
		if e := m.LogE(some, s); e != 0 {
			t.Errorf("%+v is evidence: %v", s, e)
		}
		if d, r := m.Difference(0.05, some, s), m.Relative(0.05, some, s); d != everything() || r != everything() {
			t.Errorf("%+v: intervals %v and %v", s, d, r)
		}
		if d, p, _ := Welch(0.05, some, s); d != everything() || p != 1 {
			t.Errorf("%+v: Welch's interval %v, p %v", s, d, p)
		}
	}
	same := Sample{Units: 100, Mean: 1} // all succeeded
	if e := (Means{Scale: 1}).LogE(same, same); e != 0 {
		t.Errorf("two groups without any variance are evidence: %v", e)
	}
	for _, scale := range []float64{0, math.NaN()} {
		if e := (Means{Scale: scale}).LogE(some, Sample{Units: 100, Mean: 9, Variance: 1}); e != 0 {
			t.Errorf("with the scale %v there is evidence: %v", scale, e)
		}
	}
}

// TestPlansAreInverse holds that units and the least difference are each other's inverse.
func TestPlansAreInverse(t *testing.T) {
	t.Parallel()
	a, b := Group{Share: 0.9, Variance: 0.05}, Group{Share: 0.1, Variance: 0.06}
	for _, difference := range []float64{0.001, 0.01, 0.1} {
		units := Units(4, difference, a, b)
		if got := MinimumDifference(4, units, a, b); math.Abs(got/difference-1) > 0.01 {
			t.Errorf("%d units find %v, planned for %v", units, got, difference)
		}
	}
	if got := Units(4, 0, a, b); got != math.MaxUint64 {
		t.Errorf("a difference of 0 needs %d units", got)
	}
	if got := Units(4, 1, Group{Share: 0, Variance: 1}, b); got != math.MaxUint64 {
		t.Errorf("a group without units needs %d of all", got)
	}
	if got := Duration(1000, 500); got != 48*time.Hour {
		t.Errorf("1,000 units at 500 a day: %v", got)
	}
	if got := Duration(math.MaxUint64, 0); got != 36525*24*time.Hour {
		t.Errorf("at none a day: %v", got)
	}
}

// TestSampleRatio holds that shares as they should be raise no alarm in 400 experiments
// that are looked at all the time, and that shares a little off do.
func TestSampleRatio(t *testing.T) {
	t.Parallel()
	const alpha, runs = 0.05, 400
	play := func(seed uint64, share float64, units int) (alarms int) {
		for i := range uint64(runs) {
			r := rand.New(rand.NewPCG(seed, i))
			var n [2]uint64
			for k := range units {
				if r.Float64() < share {
					n[1]++
				} else {
					n[0]++
				}
				if k%20 == 0 && P(SampleRatio(n[:], []float64{9000, 1000})) <= alpha {
					alarms++
					break
				}
			}
		}
		return alarms
	}
	if got := play(1, 0.1, 2000); got > runs*alpha {
		t.Errorf("%d of %d experiments are said to be divided wrongly", got, runs)
	}
	if got := play(2, 0.15, 1000); got < runs*9/10 {
		t.Errorf("only %d of %d that are divided 85 to 15 are found", got, runs)
	}
	if got := SampleRatio([]uint64{100, 1}, []float64{1, 0}); !math.IsInf(got, 1) {
		t.Errorf("a unit where there can be none is evidence of %v", got)
	}
	for _, c := range []struct {
		units   []uint64
		weights []float64
	}{{nil, nil}, {[]uint64{0, 0}, []float64{1, 1}}, {[]uint64{5}, nil}, {nil, []float64{1, 1}}} {
		if got := SampleRatio(c.units, c.weights); got != 0 {
			t.Errorf("units %v by weights %v are evidence of %v", c.units, c.weights, got)
		}
	}
}
