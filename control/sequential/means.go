package sequential

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Sample is what the units of one group come to.
type Sample struct {
	// Units is how many there are.
	Units uint64
	// Mean is the mean over units, and Variance the unbiased variance.
	Mean, Variance float64
}

// squaredError is the variance of the mean.
func (s Sample) squaredError() float64 { return s.Variance / float64(s.Units) }

// known says whether there is anything to compute with.
func (s Sample) known() bool {
	return s.Units >= 2 && s.Variance >= 0 && !math.IsInf(s.Variance, 1) && !math.IsNaN(s.Mean) && !math.IsInf(s.Mean, 0)
}

// Interval has a lower and an upper bound, which may be infinite.
type Interval struct{ Low, High float64 }

// everything is what is known before there are two units on each side.
func everything() Interval { return Interval{math.Inf(-1), math.Inf(1)} }

// Means compares the means of two groups' units. It is the asymptotic confidence sequence
// of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), of Robbins' normal mixture
// (1970), with two groups: the difference of the means counts as normal with the variance
// V = s1²/n1 + s2²/n2, and the evidence against "no difference" is the mean of likelihood
// ratios of differences d that are themselves spread normally with the deviation Scale:
//
//	e = sqrt(V / (V+Scale²)) · exp(d²/2 · Scale² / (V·(V+Scale²)))
//
// The interval has all differences that the evidence does not refute at the risk alpha.
// Its width holds for all times at once. It needs no normal units, but many of them.
//
// A group's variance counts as at least that of both groups together. Where values are
// very skewed and a group is small, such as a variant of 10 % of which nobody has failed
// yet, its own variance is often far too small just when its mean is off, and false
// alarms were three times what they may be (TestAANoFalseAlarms).
type Means struct {
	// Scale is where the test is sharpest: see TunedScale. It must not follow the
	// difference that is measured.
	Scale float64
}

// TunedScale returns the scale for which the interval is narrowest, among all scales,
// when the difference's standard error is this one.
func TunedScale(alpha, standardError float64) float64 {
	return standardError * math.Sqrt(narrowest(alpha)-1)
}

// narrowest is the least squared distance from "no difference", in standard errors, at
// which a normal mixture can reject. It is 1 + Scale²/V where it does, and solves
// y = 1 + log(y) - 2·log(alpha): what is least of y/(y-1) · log(y/alpha²) over y.
func narrowest(alpha float64) float64 {
	y := 10.0
	for range 200 {
		next := 1 + math.Log(y) - 2*math.Log(alpha)
		if math.Abs(next-y) < 1e-14*y {
			return next
		}
		y = next
	}
	return y
}

// careful has each group's variance be at least that of both together.
func careful(a, b Sample) (Sample, Sample) {
	n, m := float64(a.Units-1), float64(b.Units-1)
	both := (n*a.Variance + m*b.Variance) / (n + m)
	a.Variance, b.Variance = max(a.Variance, both), max(b.Variance, both)
	return a, b
}

// boundary is how far from "no difference", in the measure's unit, a mixture rejects at
// the variance v of the difference.
func (m Means) boundary(alpha, v float64) float64 {
	square := m.Scale * m.Scale
	if !(v > 0) || !(square > 0) {
		return math.Inf(1)
	}
	return math.Sqrt(v * (v + square) / square * (math.Log1p(square/v) - 2*math.Log(alpha)))
}

// LogE returns the logarithm of the evidence that the means differ. It is 0 as long as
// nothing is known.
func (m Means) LogE(control, variant Sample) float64 {
	if !control.known() || !variant.known() {
		return 0
	}
	control, variant = careful(control, variant)
	v := control.squaredError() + variant.squaredError()
	square := m.Scale * m.Scale
	if !(v > 0) || !(square > 0) {
		return 0
	}
	d := variant.Mean - control.Mean
	return -math.Log1p(square/v)/2 + d*d/2*square/(v*(v+square))
}

// Difference returns the interval of the variant's mean less the control's.
func (m Means) Difference(alpha float64, control, variant Sample) Interval {
	if !control.known() || !variant.known() {
		return everything()
	}
	control, variant = careful(control, variant)
	d := variant.Mean - control.Mean
	b := m.boundary(alpha, control.squaredError()+variant.squaredError())
	return Interval{d - b, d + b}
}

// Relative returns the interval of the difference as a part of the control's mean, such as
// 0.05 for 5 % more. It has 0 in it just where Difference has. It is Fieller's (1954):
// all r for which the mean of variant - (1+r)·control may be 0, by tests that are as sharp
// as that of r = 0, so that it takes into account that the control's mean is measured too.
// Where that may be 0 itself, the interval has no bounds.
func (m Means) Relative(alpha float64, control, variant Sample) Interval {
	if !control.known() || !variant.known() {
		return everything()
	}
	control, variant = careful(control, variant)
	v, c := variant.squaredError(), control.squaredError()
	// z is how many standard errors the boundary is away.
	z := m.boundary(alpha, c+v) / math.Sqrt(c+v)
	// f = 1+r solves (variant - f·control)² = z²·(v + f²·c).
	square := control.Mean*control.Mean - z*z*c
	if !(square > 0) {
		return everything()
	}
	middle := variant.Mean * control.Mean / square
	half := math.Sqrt(middle*middle - (variant.Mean*variant.Mean-z*z*v)/square) // never of less than 0
	return Interval{middle - half - 1, middle + half - 1}
}

// Welch returns the classical interval of the variant's mean less the control's, and the
// two-sided p-value (Welch 1947). Both hold for one look at a time that was fixed before,
// and for no other. nu is the degrees of freedom. Where nothing is known, p is 1.
func Welch(alpha float64, control, variant Sample) (interval Interval, p, nu float64) {
	if !control.known() || !variant.known() {
		return everything(), 1, 0
	}
	a, b := control.squaredError(), variant.squaredError()
	v := a + b
	if v == 0 {
		return everything(), 1, 0
	}
	nu = v * v / (a*a/float64(control.Units-1) + b*b/float64(variant.Units-1))
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: nu}
	d, se := variant.Mean-control.Mean, math.Sqrt(v)
	half := t.Quantile(1-alpha/2) * se
	return Interval{d - half, d + half}, 2 * t.CDF(-math.Abs(d)/se), nu
}
