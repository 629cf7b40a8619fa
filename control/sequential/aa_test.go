package sequential

import (
	"math"
	"math/rand/v2"
	"testing"
)

const (
	aaExperiments = 2000
	aaPeeks       = 50
	// aaLeast is from how many units on a comparison claims something (package report's
	// rule).
	aaLeast = 100
)

// aaUnit is a unit's RPCs as they come in.
type aaUnit struct {
	own, count, sum float64
}

// aaWorld is what an A/A experiment measures: both groups the same.
type aaWorld struct {
	name string
	// units is how many come in all, spread evenly over the peeks unless all are there
	// from the beginning.
	units     int
	fromStart bool
	// variant is the variant's share.
	variant float64
	// unit draws what is a unit's own; rpc draws the value of one of its RPCs. Without
	// rpc, a unit has its own value at once and keeps it.
	unit func(*rand.Rand) float64
	rpc  func(r *rand.Rand, own float64) float64
	// sum has a unit's RPCs summed up instead of averaged.
	sum bool
	// effect is added to a variant's RPCs as a part of their value.
	effect float64
}

func aaWorlds() []aaWorld {
	lognormal := func(sigma float64) func(*rand.Rand) float64 {
		return func(r *rand.Rand) float64 { return math.Exp(sigma * r.NormFloat64()) }
	}
	bernoulli := func(p float64) func(*rand.Rand) float64 {
		return func(r *rand.Rand) float64 {
			if r.Float64() < p {
				return 1
			}
			return 0
		}
	}
	noisy := func(r *rand.Rand, own float64) float64 { return own * r.ExpFloat64() }
	return []aaWorld{
		{name: "normal", units: 1000, variant: 0.5, unit: func(r *rand.Rand) float64 { return 10 + 3*r.NormFloat64() }},
		{name: "latency, lognormal", units: 1000, variant: 0.5, unit: lognormal(1)},
		{name: "revenue, very skewed", units: 1000, variant: 0.5, unit: lognormal(2)},
		{name: "very skewed, 10 % variant", units: 3000, variant: 0.1, unit: lognormal(2)},
		{name: "skewed, 10 % variant", units: 2000, variant: 0.1, unit: lognormal(1)},
		{name: "one in 100 fails", units: 2000, variant: 0.5, unit: bernoulli(0.99)},
		{name: "one in 1000 fails, 10 % variant", units: 4000, variant: 0.1, unit: bernoulli(0.999)},
		{name: "means that keep changing", units: 400, variant: 0.5, unit: lognormal(0.5), rpc: noisy},
		{name: "means that keep changing, no new units", units: 250, fromStart: true, variant: 0.5, unit: func(*rand.Rand) float64 { return 1 }, rpc: noisy},
		{name: "growing sums", units: 400, variant: 0.5, unit: lognormal(0.5), rpc: noisy, sum: true},
		{name: "growing sums, no new units", units: 250, fromStart: true, variant: 0.5, unit: func(*rand.Rand) float64 { return 1 }, rpc: noisy, sum: true},
	}
}

// aaGroup is a group's units, with their values' moments.
type aaGroup struct {
	units             []aaUnit
	n, total, squares float64
}

func (g *aaGroup) add(x, weight float64) {
	g.n, g.total, g.squares = g.n+weight, g.total+weight*x, g.squares+weight*x*x
}

func (g *aaGroup) sample() Sample {
	if g.n < 2 {
		return Sample{Units: uint64(g.n), Mean: g.total}
	}
	mean := g.total / g.n
	return Sample{Units: uint64(g.n), Mean: mean, Variance: max(0, (g.squares-g.n*mean*mean)/(g.n-1))}
}

// value is what a unit's RPCs come to.
func (w aaWorld) value(u *aaUnit) float64 {
	if w.sum {
		return u.sum
	}
	return u.sum / u.count
}

// play runs an experiment and hands both groups over at each peek. Where units have RPCs,
// each has one in four peeks, on average.
func (w aaWorld) play(r *rand.Rand, peek func(control, variant Sample)) {
	var groups [2]aaGroup
	for k := range aaPeeks {
		arrive := w.units / aaPeeks
		if w.fromStart {
			arrive *= aaPeeks
			if k > 0 {
				arrive = 0
			}
		}
		for range arrive {
			g := 0
			if r.Float64() < w.variant {
				g = 1
			}
			if own := w.unit(r); w.rpc == nil {
				groups[g].add(own*(1+float64(g)*w.effect), 1)
			} else {
				groups[g].units = append(groups[g].units, aaUnit{own: own})
			}
		}
		of0, all := len(groups[0].units), len(groups[0].units)+len(groups[1].units)
		for range all / 4 {
			i, g := r.IntN(all), 0
			if i >= of0 {
				i, g = i-of0, 1
			}
			u := &groups[g].units[i]
			if u.count > 0 {
				groups[g].add(w.value(u), -1)
			}
			u.count, u.sum = u.count+1, u.sum+w.rpc(r, u.own)*(1+float64(g)*w.effect)
			groups[g].add(w.value(u), 1)
		}
		peek(groups[0].sample(), groups[1].sample())
	}
}

// alarms counts the experiments in which each of two tests claims something at any peek.
func (w aaWorld) alarms(seed uint64, claims func(control, variant Sample) [2]bool) (first, second int) {
	for i := range uint64(aaExperiments) {
		var claimed [2]bool
		w.play(rand.New(rand.NewPCG(seed, i)), func(control, variant Sample) {
			if min(control.Units, variant.Units) < aaLeast {
				return
			}
			for k, c := range claims(control, variant) {
				claimed[k] = claimed[k] || c
			}
		})
		if claimed[0] {
			first++
		}
		if claimed[1] {
			second++
		}
	}
	return first, second
}

// squaredError is the variance of the difference of a world's means at the last peek, on
// average over some experiments.
func (w aaWorld) squaredError() float64 {
	const experiments = 20
	mean := 0.0
	for i := range uint64(experiments) {
		var last float64
		w.play(rand.New(rand.NewPCG(3, i)), func(control, variant Sample) {
			last = control.squaredError() + variant.squaredError()
		})
		mean += last / experiments
	}
	return mean
}

// TestAANoFalseAlarms is what is asked of experiments: 2,000 of them without a difference,
// each looked at 50 times, raise at most 5 % false alarms, whatever is measured. The test
// is tuned to be at its sharpest, which is its worst case. It also shows what the
// simulation is worth: an ordinary t-test at each peek fails it everywhere.
func TestAANoFalseAlarms(t *testing.T) {
	t.Parallel()
	const alpha = 0.05
	for _, w := range aaWorlds() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := Means{Scale: TunedScale(alpha, math.Sqrt(w.squaredError()))}
			alarms, naive := w.alarms(1, func(control, variant Sample) [2]bool {
				t := (variant.Mean - control.Mean) / math.Sqrt(control.squaredError()+variant.squaredError())
				return [2]bool{P(m.LogE(control, variant)) <= alpha, math.Abs(t) > 1.96}
			})
			t.Logf("%d of %d experiments (%.1f %%); t-test at each peek: %.1f %%", alarms, aaExperiments, 100*float64(alarms)/aaExperiments, 100*float64(naive)/aaExperiments)
			if alarms > aaExperiments*alpha {
				t.Errorf("%d of %d experiments without a difference claim one", alarms, aaExperiments)
			}
			if naive < 2*aaExperiments*alpha {
				t.Errorf("a t-test at each peek claims a difference in only %d: the simulation tests nothing", naive)
			}
		})
	}
}
