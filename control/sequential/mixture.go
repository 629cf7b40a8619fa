package sequential

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
)

// P returns the p-value that evidence is worth, from its logarithm: 1/e, and at most 1.
func P(logE float64) float64 { return math.Min(1, math.Exp(-logE)) }

// mixture is the mean of several tests' evidence, one for each alternative to the null
// hypothesis. Each is expected to be at most 1 under the null hypothesis, so their mean
// is too; and it grows about as fast as that of the alternative nearest to the truth.
type mixture struct {
	// logs are the logarithms of the evidence. They only ever have something added, so
	// they can be kept and gone on with.
	logs []float64
	// peak is the greatest logarithm of the mean so far.
	peak float64
}

func newMixture(alternatives int) mixture { return mixture{logs: make([]float64, alternatives)} }

// logE is the logarithm of the evidence, with more that is not in logs yet.
func (m *mixture) logE(open []float64) float64 {
	var sum [exceedsAlternatives]float64 // the most there are
	logs := sum[:copy(sum[:], m.logs)]
	if open != nil {
		floats.Add(logs, open)
	}
	return floats.LogSumExp(logs) - math.Log(float64(len(logs)))
}

// restore takes over what was kept of a test with as many alternatives.
func (m *mixture) restore(evidence []float64, p float64) error {
	if len(evidence) != len(m.logs) {
		return fmt.Errorf("the evidence of %d alternatives was kept, this version has %d: the test must begin anew", len(evidence), len(m.logs))
	}
	for _, l := range evidence {
		if math.IsNaN(l) || math.IsInf(l, 0) {
			return fmt.Errorf("the kept evidence has %v in it: the test must begin anew", l)
		}
	}
	m.logs = slices.Clone(evidence)
	m.peak = max(0, m.logE(nil))
	if p > 0 && p <= 1 {
		m.peak = max(m.peak, -math.Log(p))
	}
	return nil
}
