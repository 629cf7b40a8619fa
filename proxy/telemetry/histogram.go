package telemetry

import (
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets of grpc_*_handling_seconds:
// Prometheus's default ones from 5 ms to 10 s, and five below, because a
// sidecar's RPCs to a neighbour take tenths of a millisecond and would all fall
// into the first default bucket.
var bounds = [...]time.Duration{
	100 * time.Microsecond,
	250 * time.Microsecond,
	500 * time.Microsecond,
	1 * time.Millisecond,
	2500 * time.Microsecond,
	5 * time.Millisecond,
	10 * time.Millisecond,
	25 * time.Millisecond,
	50 * time.Millisecond,
	100 * time.Millisecond,
	250 * time.Millisecond,
	500 * time.Millisecond,
	1 * time.Second,
	2500 * time.Millisecond,
	5 * time.Second,
	10 * time.Second,
}

// bucketOf returns the bucket that a duration falls into, len(bounds) for what
// is over the last bound. A bound belongs to its own bucket (Prometheus's "le").
// Most RPCs are quick, so looking from the lowest up ends soon.
func bucketOf(d time.Duration) int {
	for i, bound := range bounds {
		if d <= bound {
			return i
		}
	}
	return len(bounds)
}

// durations is a histogram of how long RPCs took. How many there were is the
// sum of its buckets, so no count can disagree with them.
type durations struct {
	buckets [len(bounds) + 1]atomic.Uint64
}

// snapshot returns the count and the buckets as Prometheus wants them: keyed by
// bound in seconds, each including those below.
func (h *durations) snapshot() (count uint64, cumulative map[float64]uint64) {
	cumulative = make(map[float64]uint64, len(bounds))
	for i, bound := range bounds {
		count += h.buckets[i].Load()
		cumulative[bound.Seconds()] = count
	}
	return count + h.buckets[len(bounds)].Load(), cumulative
}
