package balance

import "math/bits"

// eligible reports whether an RPC that skips some instances may go to this one.
func eligible[I Instance](instance I, skip func(I) bool) bool {
	return instance.Usable() && (skip == nil || !skip(instance))
}

// drawEligible draws two instances by weight from the eligible ones alone,
// given 64 random bits for each; they may be the same. Both are -1 if there is
// none. It looks at all instances, so it is for when most are unusable.
func drawEligible[I Instance](instances []I, weights []uint32, skip func(I) bool, randomA, randomB uint64) (a, b int) {
	var sum uint64
	for i, instance := range instances {
		if eligible(instance, skip) {
			sum += uint64(weightOf(weights, i))
		}
	}
	drawnA, _ := bits.Mul64(randomA, sum) // below sum
	drawnB, _ := bits.Mul64(randomB, sum)
	a, b, sum = -1, -1, 0
	for i, instance := range instances {
		if !eligible(instance, skip) {
			continue
		}
		// Some may have become unusable since they were counted, so the last
		// instance that is left stands in for any not reached.
		if sum <= drawnA {
			a = i
		}
		if sum <= drawnB {
			b = i
		}
		sum += uint64(weightOf(weights, i))
	}
	return a, b
}

// weightOf returns the weight of instance i, at least 1.
func weightOf(weights []uint32, i int) uint32 {
	if i >= len(weights) {
		return 1
	}
	return max(weights[i], 1)
}
