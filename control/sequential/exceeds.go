package sequential

import (
	"fmt"
	"math"
	"slices"
)

const (
	// exceedsAlternatives is how many failure ratios over the limit are considered.
	exceedsAlternatives = 16
	// exceedsNearest is how many times the limit's odds are those of the nearest.
	exceedsNearest = 1.25
	// exceedsFarthest is the ratio of the farthest, where the limit is well below it.
	exceedsFarthest = 0.99
)

// Exceeds tests whether RPCs fail with a probability of at most a limit (the null
// hypothesis) or more. The probability may change from RPC to RPC and depend on all that
// was before, as long as it stays below the limit.
//
// Its evidence is the mean of the likelihood ratios of 16 higher probabilities to the
// limit. Each is a test supermartingale: with a probability p of failure its factor
// p·p1/p0 + (1-p)·(1-p1)/(1-p0) grows with p, and is 1 where p is the limit.
type Exceeds struct {
	mixture
	failed, succeeded [exceedsAlternatives]float64
}

// NewExceeds returns a test that has seen nothing. The limit is greater than 0 and less
// than 1; what is not is an error.
func NewExceeds(limit float64) (*Exceeds, error) {
	if !(limit > 0 && limit < 1) {
		return nil, fmt.Errorf("a limit of %v is not between 0 and 1", limit)
	}
	t := &Exceeds{mixture: newMixture(exceedsAlternatives)}
	odds := limit / (1 - limit)
	first := math.Log(odds * exceedsNearest)
	last := math.Log(math.Max(exceedsFarthest/(1-exceedsFarthest), odds*4))
	for i := range t.failed {
		p := 1 / (1 + math.Exp(-(first + (last-first)*float64(i)/(exceedsAlternatives-1))))
		t.failed[i] = math.Log(p / limit)
		t.succeeded[i] = math.Log1p(-p) - math.Log1p(-limit)
	}
	return t, nil
}

// Add counts RPCs that have ended since the last Add, and how many of them failed.
func (t *Exceeds) Add(rpcs, failures uint64) {
	failures = min(failures, rpcs)
	for i := range t.logs {
		t.logs[i] += float64(failures)*t.failed[i] + float64(rpcs-failures)*t.succeeded[i]
	}
	if failures > 0 { // else the evidence has only become less
		t.peak = max(t.peak, t.LogE())
	}
}

// LogE returns the logarithm of the evidence as it is now.
func (t *Exceeds) LogE() float64 { return t.logE(nil) }

// Rejects says whether the evidence that there is now refutes the null hypothesis at a
// risk of alpha. It may be asked at any time and on any further conditions.
func (t *Exceeds) Rejects(alpha float64) bool { return t.LogE() >= -math.Log(alpha) }

// P returns the least p-value that there has been: what it has been below once, it stays
// below.
func (t *Exceeds) P() float64 { return P(t.peak) }

// Evidence returns the logarithm of each alternative's evidence, to be kept.
func (t *Exceeds) Evidence() []float64 { return slices.Clone(t.logs) }

// Restore goes on from what Evidence and P returned; p may be 0, for unknown. The limit
// must be the same. After an error the test is as it was.
func (t *Exceeds) Restore(evidence []float64, p float64) error { return t.restore(evidence, p) }
