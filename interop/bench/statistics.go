package main

import (
	"math"
	"slices"
)

// median is the middle of values; NaN where there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// percentile is the smallest of the sorted values that p percent of them do
// not exceed (nearest rank).
func percentile(sorted []int, p float64) int {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// ratio compares two series that were measured in the same rounds.
type ratio struct {
	// ofMedians is the one median over the other.
	ofMedians float64
	// perRound is the median of the rounds' ratios: what drifts over a run
	// touches both of a round's measurements, and cancels out in it.
	perRound float64
	// low and high are the smallest and the largest of the rounds' ratios.
	low, high float64
}

// compare relates a to b. ok is false where either is missing, or b is zero.
func compare(a, b []float64) (r ratio, ok bool) {
	if len(a) == 0 || len(a) != len(b) || slices.Contains(b, 0) {
		return ratio{}, false
	}
	rounds := make([]float64, len(a))
	for i := range a {
		rounds[i] = a[i] / b[i]
	}
	return ratio{
		ofMedians: median(a) / median(b),
		perRound:  median(rounds),
		low:       slices.Min(rounds),
		high:      slices.Max(rounds),
	}, true
}
