package experiment

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// bins is how many bins a histogram has.
	bins = 40
	// tail is the part of all units that is beyond a histogram's bounds on each side, so
	// that one that is far out does not have all others be in one bin.
	tail = 0.005
)

// moments are the mean and the unbiased variance of values; the variance of fewer than
// two is 0.
func moments(values []float64) (mean, variance float64) {
	switch len(values) {
	case 0:
		return 0, 0
	case 1:
		return values[0], 0
	}
	return stat.MeanVariance(values, nil)
}

// measureResults are what a measure came to in each variant. Histograms have the same
// bounds in all.
func measureResults(m *measure, values [][]float64) []*meshv1.MeasureResults {
	low, high := histogramBounds(m, values)
	list := make([]*meshv1.MeasureResults, len(values))
	for v, of := range values {
		mean, variance := moments(of)
		list[v] = &meshv1.MeasureResults{Units: uint64(len(of)), Mean: mean, Variance: variance}
		if len(of) > 0 {
			list[v].Low, list[v].High, list[v].Bins = low, high, histogram(of, low, high)
		}
	}
	return list
}

func histogramBounds(m *measure, values [][]float64) (low, high float64) {
	every := slices.Concat(values...)
	if len(every) == 0 {
		return 0, 0
	}
	slices.Sort(every)
	cut := int(tail * float64(len(every)))
	low, high = every[cut], every[len(every)-1-cut]
	if low == high {
		// All are alike: they are in the middle, but where nothing can be beyond them.
		half := max(math.Abs(low), 1) / 2
		least, most := m.unitBounds()
		low, high = max(low-half, least), min(high+half, most)
	}
	return low, high
}

func histogram(values []float64, low, high float64) []uint64 {
	list := make([]uint64, bins)
	for _, x := range values {
		i := int((min(max(x, low), high) - low) / (high - low) * bins)
		list[min(max(i, 0), bins-1)]++
	}
	return list
}
