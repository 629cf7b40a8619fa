// Package observe counts what came of a group's RPCs: how they ended, and how long they
// took.
package observe

import (
	"math"
	"time"
)

const (
	// perOctave is how many buckets there are for each doubling: each is 9 % wide.
	perOctave = 8
	// least is the upper bound of bucket 0.
	least = 10 * time.Microsecond
	// Buckets is how many there are: the last but one ends at 23 minutes, the last has all
	// that took longer.
	Buckets = 27*perOctave + 2
)

// bounds are the buckets' upper bounds, all but the last's.
var bounds = func() (b [Buckets - 1]time.Duration) {
	for i := range b {
		b[i] = time.Duration(math.Round(float64(least) * math.Exp2(float64(i)/perOctave)))
	}
	return b
}()

// Bound returns the upper bound of a bucket, which lies in it; the last has none, and
// returns the longest duration there is.
func Bound(bucket int) time.Duration {
	if bucket >= len(bounds) {
		return math.MaxInt64
	}
	return bounds[max(bucket, 0)]
}
