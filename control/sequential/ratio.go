package sequential

import "math"

// sampleRatioFirm are how firmly the weights are believed, in units, by the alternatives
// that SampleRatio considers: from shares that are quite others to ones that are nearly
// the same, which takes many units to tell.
var sampleRatioFirm = [...]float64{2, 100, 10_000, 1_000_000}

// SampleRatio returns the logarithm of the evidence that units are not divided as the
// weights say: the sample ratio mismatch, after which an experiment's comparison means
// nothing. units and weights are by variant; the weights' sum is of no matter. It is the
// test of Lindon and Malek (2022): the likelihood of the counts with shares that are
// spread around the weights (Dirichlet) to that with the weights, which may be looked at
// after every unit; here the mean of four such tests. A unit where the weight is 0 is
// infinite evidence.
func SampleRatio(units []uint64, weights []float64) float64 {
	total, all := 0.0, 0.0
	for i, w := range weights {
		if w > 0 {
			total += w
		} else if i < len(units) && units[i] > 0 {
			return math.Inf(1)
		}
		if i < len(units) {
			all += float64(units[i])
		}
	}
	if total == 0 || all == 0 {
		return 0
	}
	m := newMixture(len(sampleRatioFirm))
	for k, firm := range sampleRatioFirm {
		m.logs[k] = logGamma(firm) - logGamma(firm+all)
		for i, w := range weights {
			if i >= len(units) || !(w > 0) {
				continue
			}
			share, n := w/total, float64(units[i])
			m.logs[k] += logGamma(firm*share+n) - logGamma(firm*share) - n*math.Log(share)
		}
	}
	return m.logE(nil)
}

func logGamma(x float64) float64 {
	l, _ := math.Lgamma(x)
	return l
}
