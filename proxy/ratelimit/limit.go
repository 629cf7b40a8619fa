package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

// Limit says how many RPCs may pass. The zero value of a field means its default.
type Limit struct {
	// Requests is how many may pass in each Interval in the long run. The time for
	// each is rounded up to a whole nanosecond. Default 1.
	Requests int
	// Interval is the time that Requests is for. Default 1 s.
	Interval time.Duration
	// Burst is how many may pass at once after a pause. Default: Requests.
	Burst int
	// MaxKeys is how many keys have a bucket of their own. 0: none, all share one.
	MaxKeys int
}

// WithDefaults returns a copy in which every field but MaxKeys has a value.
func (l Limit) WithDefaults() Limit {
	if l.Requests <= 0 {
		l.Requests = 1
	}
	if l.Interval <= 0 {
		l.Interval = time.Second
	}
	if l.Burst <= 0 {
		l.Burst = l.Requests
	}
	return l
}

// longest is the longest time that a bucket looks ahead, some 73 years: sums of it
// and of times have room in an int64.
const longest = math.MaxInt64 / 4

// rate is a limit in the terms of the algorithm, in ns.
type rate struct {
	each  int64 // the time from one RPC to the next
	burst int64 // how far ahead of that RPCs may be, that of a whole burst
}

func (l Limit) rate() rate {
	each := (int64(l.Interval)-1)/int64(l.Requests) + 1
	burst := int64(longest)
	if hi, lo := bits.Mul64(uint64(each), uint64(l.Burst)); hi == 0 && lo < longest {
		burst = int64(lo)
	}
	return rate{each, max(burst, each)}
}
