package balance

import "math/bits"

// wants reports whether the RPC may go to an instance.
func (q *Query[I]) wants(instance I) bool {
	return (instance.Usable() || q.Panic && instance.Reachable()) && (q.Skip == nil || !q.Skip(instance))
}

// drawEligible draws two instances by weight from the eligible ones alone,
// given 64 random bits for each; they may be the same. Both are -1 if there is
// none. It looks at all instances, so it is for when most are unusable.
func drawEligible[I Instance](set *Set[I], q *Query[I], randomA, randomB uint64) (a, b int) {
	var sum uint64
	for i, instance := range set.Instances {
		if q.wants(instance) {
			sum += uint64(weightOf(set.Weights, i))
		}
	}
	drawnA, _ := bits.Mul64(randomA, sum) // below sum
	drawnB, _ := bits.Mul64(randomB, sum)
	a, b, sum = -1, -1, 0
	for i, instance := range set.Instances {
		if !q.wants(instance) {
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
		sum += uint64(weightOf(set.Weights, i))
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
