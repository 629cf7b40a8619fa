package ratelimit

import (
	"math"
	"time"
)

// The generic cell rate algorithm (ITU-T I.371) is a bucket of tokens in one number:
// the time at which the bucket will be full again, its theoretical arrival time. An
// RPC moves it on by the time for one; it may lie ahead of now by a whole burst.

// full is what a bucket is that nothing was taken out of yet: earlier than any time.
const full = math.MinInt64 / 2

// take returns what a bucket becomes when an RPC passes now, or how long there is no
// room for it.
func (r rate) take(bucket, now int64) (next, wait int64) {
	next = max(bucket, now) + r.each
	return next, next - r.burst - now
}

// epoch is what times are measured from: only their differences matter.
var epoch = time.Now()

// clock returns a time as a number, of the monotonic clock where it has that, within
// what leaves room for sums.
func clock(now time.Time) int64 {
	return min(max(int64(now.Sub(epoch)), -longest), longest)
}
