package sequential

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/floats"
)

// labelsAlternatives are how many times oftener than it may the canary's RPCs fail, in
// the alternatives that Labels considers.
var labelsAlternatives = [...]float64{1.25, 1.6, 2.2, 3, 5, 8, 15, 40, 150, 1000}

// labelsBlock is how many RPCs of each side make a block whose share is looked at for
// itself: enough that the share is known to some 6 %, few enough to follow its changes.
const labelsBlock = 256

// Labels tests whether events, such as failures, happen to the canary's RPCs at most
// ratio times as often as to the stable version's (the null hypothesis), or oftener. How
// often they happen to both may change at any time and is not looked at: of each event it
// only counts whose it is, its label. With w, the canary's share of RPCs, the null
// hypothesis gives the label "canary" a probability of at most
//
//	q0 = ratio·w / (ratio·w + 1 - w)
//
// so that a bad quarter of an hour of a database behind both is evidence of nothing.
// Given the number of events this is the classical conditional test of two Poisson rates
// (Przyborowski and Wilenski 1940), made sequential as by Lindon and Malek (2022), with
// the mean of the likelihood ratios of ten higher odds.
//
// # The share
//
// w is the greater of two shares: the assigned one, by which RPCs or sticky keys were
// divided, and the observed one, of the RPCs that have ended. All evidence becomes less as
// w grows (both factors of the likelihood ratio do), so the test holds where either holds:
//
//   - Where every RPC is divided at random by the assigned share, the label of an event is
//     random with just that probability, whatever else goes on: the test is exact.
//   - Where keys are sticky, the canary may have the busier keys, for good; and a canary
//     that answers faster has ended more RPCs in the first moments. Then what counts is
//     the observed share: given how many RPCs each side had, independent of whether they
//     failed, evidence at that share is expected to be at most 1 (log(1+x) <= x has it).
//
// The observed share is taken for blocks of at least 256 RPCs of each side, not for each
// Add, because a single RPC's share is 0 or 1, and the greater would be useless.
// Where blocks end depends on numbers of RPCs alone, not on events.
//
// # Events that come together
//
// Labels must be independent. Where keys are sticky, the failures of one key are not: they
// all have one label. Count at most one failure of each key then; the label of a key's
// first failure is independent again, and the assigned share is that of keys. Where events
// come in bursts for another reason, such as slow RPCs in a pause of an instance, say in
// LabelCounts.Together how many come together.
type Labels struct {
	mixture
	ratio float64
	// open is the block that goes on, and extra what it says so far, which is worked out
	// when somebody asks.
	open  LabelCounts
	extra [len(labelsAlternatives)]float64
	stale bool
}

// LabelCounts are what happened to both sides' RPCs in a time.
type LabelCounts struct {
	// CanaryEvents and StableEvents are how many of each side's RPCs had the event.
	CanaryEvents, StableEvents uint64
	// CanaryRPCs and StableRPCs are how many ended. Both 0: nothing is known of that, and
	// the assigned share holds.
	CanaryRPCs, StableRPCs uint64
	// Share is the canary's assigned share, from 0 to 1.
	Share float64
	// Together is how many events come together, as was known before them: so many count
	// as one. Less than 1 is 1. (The evidence to a power of at most 1 is expected to be at
	// most 1, so this never makes the test wrong; it makes it slower.)
	Together float64
}

// NewLabels returns a test that has seen nothing. The ratio is positive, such as 1; what
// is not is an error.
func NewLabels(ratio float64) (*Labels, error) {
	if !(ratio > 0) || math.IsInf(ratio, 1) {
		return nil, fmt.Errorf("a ratio of %v is not positive", ratio)
	}
	return &Labels{mixture: newMixture(len(labelsAlternatives)), ratio: ratio}, nil
}

// Add counts what happened since the last Add.
func (t *Labels) Add(c LabelCounts) {
	if !(c.Together > 1) {
		c.Together = 1
	}
	if c.Share != t.open.Share || c.Together != t.open.Together {
		t.close()
		t.open.Share, t.open.Together = c.Share, c.Together
	}
	t.open.CanaryEvents += c.CanaryEvents
	t.open.StableEvents += c.StableEvents
	t.open.CanaryRPCs += c.CanaryRPCs
	t.open.StableRPCs += c.StableRPCs
	t.stale = true
	if c.CanaryEvents > 0 { // else the evidence has hardly become more
		t.peak = max(t.peak, t.LogE())
	}
	if t.open.CanaryRPCs >= labelsBlock && t.open.StableRPCs >= labelsBlock {
		t.close()
	}
}

// weigh works out what the open block says.
func (t *Labels) weigh() []float64 {
	if !t.stale {
		return t.extra[:]
	}
	t.stale = false
	t.extra = [len(labelsAlternatives)]float64{}
	c := &t.open
	w := c.Share
	if all := c.CanaryRPCs + c.StableRPCs; all > 0 {
		w = max(w, float64(c.CanaryRPCs)/float64(all))
	}
	if !(w > 0 && w < 1) { // There is nothing to compare.
		return t.extra[:]
	}
	canary, stable := float64(c.CanaryEvents)/c.Together, float64(c.StableEvents)/c.Together
	for i, times := range labelsAlternatives {
		// (1-q1)/(1-q0), of which q1/q0 is `times` as much.
		other := math.Log1p(w*(t.ratio-1)) - math.Log1p(w*(t.ratio*times-1))
		t.extra[i] = canary*(math.Log(times)+other) + stable*other
	}
	return t.extra[:]
}

// close has the next RPCs begin a block of their own.
func (t *Labels) close() {
	t.peak = max(t.peak, t.LogE())
	floats.Add(t.logs, t.weigh())
	t.extra = [len(labelsAlternatives)]float64{}
	t.open = LabelCounts{Share: t.open.Share, Together: t.open.Together}
}

// LogE returns the logarithm of the evidence as it is now.
func (t *Labels) LogE() float64 { return t.logE(t.weigh()) }

// Rejects says whether the evidence that there is now refutes the null hypothesis at a
// risk of alpha. It may be asked at any time and on any further conditions.
func (t *Labels) Rejects(alpha float64) bool { return t.LogE() >= -math.Log(alpha) }

// P returns the least p-value that there has been: what it has been below once, it stays
// below.
func (t *Labels) P() float64 { return P(t.peak) }

// Evidence returns the logarithm of each alternative's evidence, to be kept.
func (t *Labels) Evidence() []float64 {
	return floats.AddTo(make([]float64, len(t.logs)), t.logs, t.weigh())
}

// Restore goes on from what Evidence and P returned; p may be 0, for unknown. The ratio
// must be the same, the share need not. After an error the test is as it was.
func (t *Labels) Restore(evidence []float64, p float64) error {
	if err := t.restore(evidence, p); err != nil {
		return err
	}
	t.extra, t.open, t.stale = [len(labelsAlternatives)]float64{}, LabelCounts{}, false
	return nil
}
