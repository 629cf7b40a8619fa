package report

import (
	"math"

	"github.com/pillion-proxy/pillion/control/sequential"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// compare compares two samples. Its verdict is Better or Worse for the direction alone, or
// TooFew.
func (a *Analysis) compare(s setting, drift float64, control, variant sequential.Sample) Comparison {
	unknown := Number(math.NaN())
	c := Comparison{Difference: unknown, Relative: unknown, P: 1, Verdict: TooFew, Series: []Point{}}
	if control.Units > 0 && variant.Units > 0 {
		c.Difference = Number(variant.Mean - control.Mean)
		c.Relative = Number(variant.Mean/control.Mean - 1)
	}
	few := min(control.Units, variant.Units) < LeastUnits
	if few {
		control, variant = sequential.Sample{}, sequential.Sample{} // of which nothing is known
	}
	means := sequential.Means{Scale: sequential.PlannedScale(a.IntervalRisk, drift, s.minEffect*tuningBase(control))}
	c.Interval = asRange(means.Difference(a.IntervalRisk, control, variant))
	c.RelativeInterval = asRange(means.Relative(a.IntervalRisk, control, variant))
	c.P = Number(sequential.P(means.LogE(control, variant)))
	welch, p, _ := sequential.Welch(a.IntervalRisk, control, variant)
	c.Welch, c.WelchP = asRange(welch), Number(p)
	if few {
		return c
	}
	c.Negligible = math.Max(math.Abs(float64(c.RelativeInterval.Low)), math.Abs(float64(c.RelativeInterval.High))) < s.minEffect
	c.Verdict = Worse
	if c.Difference != 0 && c.Difference < 0 == s.lower {
		c.Verdict = Better
	}
	return c
}

// tuningBase is what min_effect is a part of: the control's mean. Where that may as well
// be 0, such as a gain that is a loss as often, it is the standard deviation.
func tuningBase(control sequential.Sample) float64 {
	mean, deviation := math.Abs(control.Mean), math.Sqrt(control.Variance)
	if mean < 3*deviation/math.Sqrt(float64(control.Units)) {
		return deviation
	}
	return mean
}

// sample takes moments over.
func sample(r interface {
	GetUnits() uint64
	GetMean() float64
	GetVariance() float64
}) sequential.Sample {
	return sequential.Sample{Units: r.GetUnits(), Mean: r.GetMean(), Variance: r.GetVariance()}
}

// share is the part of the units that a variant should have.
func share(e *configv1.Experiment, variant int) float64 {
	total := 0.0
	for _, v := range e.GetVariants() {
		total += float64(v.GetWeight())
	}
	return float64(e.GetVariants()[variant].GetWeight()) / total
}

// bounded is 0 for what nobody will ever have.
func bounded(units uint64) uint64 {
	if units == math.MaxUint64 {
		return 0
	}
	return units
}

func asRange(i sequential.Interval) Range { return Range{Number(i.Low), Number(i.High)} }
