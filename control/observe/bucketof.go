package observe

import (
	"math/bits"
	"time"
)

// BucketOf returns the bucket that a duration falls into. An upper bound lies in its own
// bucket.
func BucketOf(d time.Duration) int {
	if d <= least {
		return 0
	}
	octave := bits.Len64(uint64(d-1)/uint64(least)) - 1 // d is over least*2^octave and at most twice that
	from := octave * perOctave
	if from >= len(bounds)-1 {
		return len(bounds)
	}
	// Three comparisons find one of eight.
	i := from + 1
	for half := perOctave / 2; half > 0; half /= 2 {
		if d > bounds[i+half-1] {
			i += half
		}
	}
	return i
}
