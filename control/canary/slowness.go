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
	burstUnknown = 16
	// burstMost bounds how many are taken to.
	burstMost = 64
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

	// Slow RPCs come in bursts, such as while an instance collects garbage. together is how
	// many do of that version's of which more do.
	together           float64
	ofStable, ofCanary bursts
}

// begin forgets what is slow, but not how bursts were.
func (s *slowness) begin() {
	s.known = false
	s.ofStable.begin()
	s.ofCanary.begin()
	if s.together == 0 {
		s.together = burstUnknown
	}
}

// look tells a test of slow RPCs that were counted since the last look.
func (s *slowness) look(test *sequential.Labels, stable, canary *observe.Counts, share float64, at time.Time) {
	if !s.known {
		return
	}
	ofStable, ofCanary := stable.Over(s.stable), canary.Over(s.canary)
	test.Add(sequential.LabelCounts{
		CanaryEvents: ofCanary, StableEvents: ofStable,
		CanaryRPCs: canary.Timed(), StableRPCs: stable.Timed(), Share: share, Together: s.together,
	})
	// Only from now on, as it must not depend on the events that it is used for.
	known := s.ofStable.note(ofStable, at)
	if s.ofCanary.note(ofCanary, at) && known {
		s.together = max(s.ofStable.size(), s.ofCanary.size())
	}
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

// bursts says how many events come together: as many times as their variance over times is
// greater than that of single events.
type bursts struct {
	bins, sum, squares float64
	inBin              uint64
	binEnds            time.Time
}

// begin has a time begin with the next events.
func (b *bursts) begin() { b.inBin, b.binEnds = 0, time.Time{} }

// note takes note of how many events there were, and says whether it is known by now how
// they come.
func (b *bursts) note(events uint64, at time.Time) (known bool) {
	b.inBin += events
	if b.binEnds.IsZero() {
		b.binEnds = at.Add(burstBin)
	}
	if !at.Before(b.binEnds) {
		n := float64(b.inBin)
		b.bins, b.sum, b.squares = b.bins*burstFades+1, b.sum*burstFades+n, b.squares*burstFades+n*n
		b.inBin, b.binEnds = 0, at.Add(burstBin)
	}
	return b.bins >= burstBins
}

// size is how many events come together, in powers of two, so that it seldom changes: each
// change begins a block in the test.
func (b *bursts) size() float64 {
	if b.sum == 0 {
		return 1
	}
	mean := b.sum / b.bins
	ratio := (b.squares/b.bins - mean*mean) / mean
	return math.Exp2(math.Round(math.Log2(min(max(ratio, 1), burstMost))))
}
