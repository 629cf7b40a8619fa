package admission

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// samples is a histogram of latencies that many goroutines add to. Its buckets
// are a sixteenth of an octave wide, so that a median is right to 3 %.
type samples struct {
	count   atomic.Int64
	buckets [octaves << subBits]atomic.Uint32
}

const (
	subBits = 4
	// octaves of nanoseconds above the first 16: more than an hour.
	octaves = 40
)

func bucketOf(d time.Duration) int {
	n := uint64(max(d, 1))
	octave := bits.Len64(n) - 1 - subBits
	if octave < 0 {
		return int(n)
	}
	return min((octave+1)<<subBits+int(n>>octave)-1<<subBits, octaves<<subBits-1)
}

// middleOf returns the middle of a bucket.
func middleOf(bucket int) time.Duration {
	if bucket < 1<<subBits {
		return time.Duration(bucket)
	}
	octave := bucket>>subBits - 1
	low := uint64(1<<subBits+bucket&(1<<subBits-1)) << octave
	return time.Duration(low + uint64(1)<<octave/2)
}

func (s *samples) add(d time.Duration) {
	s.buckets[bucketOf(d)].Add(1)
	s.count.Add(1)
}

// median returns the median of what was added, 0 without any.
func (s *samples) median() time.Duration {
	half := (s.count.Load() + 1) / 2
	if half == 0 {
		return 0
	}
	last := 0
	for i := range s.buckets {
		n := int64(s.buckets[i].Load())
		if n == 0 {
			continue
		}
		if last = i; half <= n {
			break
		}
		half -= n
	}
	return middleOf(last)
}

// clear forgets everything. What is added meanwhile may be forgotten too.
func (s *samples) clear() {
	s.count.Store(0)
	for i := range s.buckets {
		if s.buckets[i].Load() != 0 {
			s.buckets[i].Store(0)
		}
	}
}
