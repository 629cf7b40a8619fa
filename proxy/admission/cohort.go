package admission

import (
	"sync/atomic"
	"time"
)

// cohort is the RPCs that began within some time. One that has waited for an
// answer many times as long as the app takes is no longer held against the
// limit: it is a stream whose first message is still to come, or it hangs. The
// RPCs themselves are not looked through for that; their cohort is retired.
type cohort struct {
	class *class
	began time.Duration
	// live is how many of them the limiter counts, below 0 once they are retired.
	live atomic.Int64
}

// gone is far below what live may be.
const gone = -1 << 40

// join counts an RPC. It is false where the cohort was retired in the meantime.
func (c *cohort) join() bool { return c.live.Add(1) > 0 }

// leave says whether the RPC was still counted.
func (c *cohort) leave() bool { return c.live.Add(-1) >= 0 }

// done takes an RPC off the count, if it was still there.
func (c *cohort) done() {
	if c.leave() {
		c.class.release(1)
	}
}

// retire returns how many RPCs are no longer counted.
func (c *cohort) retire() int64 { return c.live.Add(gone) - gone }

// retired says that the cohort was retired.
func (c *cohort) retired() bool { return c.live.Load() < 0 }

const (
	// patience is how many times the latency without a queue an RPC may wait for
	// the app's answer until it is no longer counted,
	patience = 10
	// but no less and no more than this; the most stands also for what is not
	// known yet.
	leastPatience = time.Second
	mostPatience  = 10 * time.Minute
	firstPatience = 10 * time.Second
	// cohortsAtOnce is how finely that is told.
	cohortsAtOnce = 8
)

// patienceFor returns how long an RPC is counted.
func patienceFor(latency time.Duration) time.Duration {
	if latency == 0 {
		return firstPatience
	}
	return min(max(patience*latency, leastPatience), mostPatience)
}
