package sequential

import (
	"math"
	"time"
)

// Group is one group of an experiment that is planned.
type Group struct {
	// Share is its part of the units that are counted, from 0 to 1.
	Share float64
	// Variance is that over units of what is measured; for a part p of units that do
	// something it is p·(1-p).
	Variance float64
}

// perUnit is the variance of the difference, times the units of all groups, as Means takes
// it: with each group's at least that of both together.
func perUnit(control, variant Group) float64 {
	both := (control.Share*control.Variance + variant.Share*variant.Variance) / (control.Share + variant.Share)
	control.Variance, variant.Variance = max(control.Variance, both), max(variant.Variance, both)
	return control.Variance/control.Share + variant.Variance/variant.Share
}

// Units returns how many units all groups need together for a difference to be found.
// drift is Drift of the risk and the power, or FixedDrift. Where it is more than can be
// counted, it is math.MaxUint64.
func Units(drift, difference float64, control, variant Group) uint64 {
	units := math.Ceil(drift * drift / (difference * difference) * perUnit(control, variant))
	if !(units < math.MaxInt64) {
		return math.MaxUint64
	}
	return uint64(max(units, 0))
}

// MinimumDifference returns the least difference that is found with so many units. It is
// what Units has the inverse of.
func MinimumDifference(drift float64, units uint64, control, variant Group) float64 {
	return drift * math.Sqrt(perUnit(control, variant)/float64(units))
}

// PlannedScale returns the scale for Means that is sharpest when a comparison has as many
// units as it takes to find this difference. drift is Drift of alpha and the power.
func PlannedScale(alpha, drift, difference float64) float64 {
	return TunedScale(alpha, math.Abs(difference)/drift)
}

// Duration returns how long it takes for so many units to come, at new ones per day.
// Where it is more than a century, it is a century.
func Duration(units uint64, perDay float64) time.Duration {
	const day, century = float64(24 * time.Hour), 36525 * 24 * time.Hour
	if d := float64(units) / perDay * day; d < float64(century) {
		return time.Duration(d)
	}
	return century
}
