package canary

import (
	"math"
	"time"

	"github.com/pillion-proxy/pillion/control/observe"
	"github.com/pillion-proxy/pillion/control/sequential"
)

const (
	// burstBin is how long a time is within which slow RPCs may have come together.
	burstBin = 200 * time.Millisecond
	// burstBins is how many such times are looked at before it is believed how many do.
	burstBins = 20
	// burstUnknown is how many are taken to come together before that.
	burstUnknown = 4
	// burstMost bounds how many are taken to.
	burstMost = 32
	// burstFades is what an earlier time weighs less than the next: some 100 count.
	burstFades = 0.99
)

// slowness says which RPCs are slow, for a test of latency. A canary whose percentile may
// be f(S) where the stable version's is S may take longer than f(S) as often as the stable
// version takes longer than S, whatever S is: so slow RPCs are events that may happen to
// both equally often, and S only has to be chosen before the RPCs that it is asked about.
// It is the percentile of all that was seen of the stable version before.
type slowness struct {
	known          bool
	stable, canary int // buckets: what is beyond their bounds is slow

	// Slow RPCs come in bursts, such as while an instance collects garbage. How many come
	// together is how many times as great their variance over times is as that of single
	// events, of the stable version's.
	together           float64
	bins, sum, squares float64
	inBin              uint64
	binEnds            time.Time
}

// begin forgets what is slow, but not how bursts were.
func (s *slowness) begin() {
	s.known, s.inBin, s.binEnds = false, 0, time.Time{}
	if s.together == 0 {
		s.together = burstUnknown
	}
}

// look tells a test of slow RPCs that were counted since the last look.
func (s *slowness) look(test *sequential.Labels, t *guardTest, stable, canary *observe.Counts, share float64, at time.Time) {
	if !s.known {
		return
	}
	slow := stable.Over(s.stable)
	test.Add(sequential.LabelCounts{
		CanaryEvents: canary.Over(s.canary), StableEvents: slow,
		CanaryRPCs: canary.Timed(), StableRPCs: stable.Timed(), Share: share, Together: s.together,
	})
	s.burst(slow, at)
}

// settle chooses what is slow from now on.
func (s *slowness) settle(t *guardTest, stable *observe.Counts) {
	if stable.Timed() < t.minRPCs {
		return
	}
	i, ok := stable.PercentileBucket(t.percentile)
	if !ok || i >= observe.Buckets-1 {
		s.known = false // what takes longer than the longest bucket cannot be told apart
		return
	}
	of := observe.Bound(i)
	may := max(time.Duration(math.Min(float64(of)*t.ratio, math.MaxInt64/2)), of+t.tolerance)
	s.known, s.stable, s.canary = true, i, observe.BucketOf(may)
}

// burst takes note of how many RPCs of the stable version were slow, and when.
func (s *slowness) burst(slow uint64, at time.Time) {
	s.inBin += slow
	if s.binEnds.IsZero() {
		s.binEnds = at.Add(burstBin)
	}
	if at.Before(s.binEnds) {
		return
	}
	n := float64(s.inBin)
	s.bins, s.sum, s.squares = s.bins*burstFades+1, s.sum*burstFades+n, s.squares*burstFades+n*n
	s.inBin, s.binEnds = 0, at.Add(burstBin)
	if s.bins < burstBins || s.sum == 0 {
		return
	}
	mean := s.sum / s.bins
	ratio := (s.squares/s.bins - mean*mean) / mean
	// In powers of two, so that it seldom changes: each change begins a block in the test.
	s.together = math.Exp2(math.Round(math.Log2(min(max(ratio, 1), burstMost))))
}
