package canary

import (
	"math"

	"github.com/pillion-proxy/pillion/control/sequential"
)

// A version that was well for an hour may fail from now on. A test that began an hour ago
// has so much evidence by then that all is well that it would take as many failures to
// outweigh it. So each test is the mean of tests that began at the beginning and of others
// that began later, after every so many of the canary's RPCs: their weights add up to one,
// and so the mean is expected to be at most 1 too, at any time. The one that began just
// before the version got worse has the say, at the price of its weight. All those that have
// begun go on in the same way, so one number holds their sum.
const (
	// firstWeight is the weight of the test that began at the beginning.
	firstWeight = 0.5
	// startEvery is how many of the canary's RPCs are between two beginnings of a test of
	// failures against a limit, startLabelsEvery of a test that compares: that looks at
	// shares of RPCs in blocks, which should not be smaller.
	startEvery, startLabelsEvery = 32, 512
)

// startWeight is the weight of the test that begins as the n-th of the later ones: they add
// up to 1 - firstWeight.
func startWeight(n uint64) float64 {
	return (1 - firstWeight) / (float64(n) * float64(n+1))
}

// test is what the tests of package sequential have in common.
type test interface {
	LogE() float64
	Rejects(alpha float64) bool
	P() float64
	Evidence() []float64
	Restore(evidence []float64, p float64) error
}

var (
	_ test = (*sequential.Exceeds)(nil)
	_ test = (*sequential.Labels)(nil)
)

// weigh has a test that has seen nothing yet be one of weight firstWeight.
func weigh(t test) {
	logs := t.Evidence()
	for i := range logs {
		logs[i] = math.Log(firstWeight)
	}
	_ = t.Restore(logs, 0) // which it has just returned as many of
}

// start has one more test begin, of a weight.
func start(t test, weight float64) {
	logs, more := t.Evidence(), math.Log(weight)
	for i, l := range logs {
		high, low := max(l, more), min(l, more)
		logs[i] = high + math.Log1p(math.Exp(low-high))
	}
	_ = t.Restore(logs, t.P()) // which it has just returned as many of
}

// startsBetween returns the weight of a test that begins when there were from RPCs before
// and are to now; false: none does.
func startsBetween(from, to, every uint64) (weight float64, ok bool) {
	n := to / every
	if n == from/every {
		return 0, false
	}
	return startWeight(n), true
}
