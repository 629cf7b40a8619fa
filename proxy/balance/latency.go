package balance

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// memory is the time in which what an estimate was falls to 1/e of its part
	// in what it is (Linkerd's default).
	memory = 10 * time.Second
	// A failure counts as twice the estimate, but within these bounds: an
	// instance that fails fast must not look quick.
	leastPenalty = 10 * time.Millisecond
	mostPenalty  = 5 * time.Second
	// An estimate below this says nothing any more.
	negligible = float64(time.Microsecond)
)

// Latency estimates how long an instance takes to answer: a mean in which what is
// past fades with time, but that a slower answer raises at once ("peak" EWMA).
// While there are no answers it falls, so that an instance which nobody wants is
// tried again. The zero value knows nothing yet. Its methods may be called from
// many goroutines at once.
type Latency struct {
	estimate atomic.Uint64 // float64 bits, nanoseconds; 0: not known
	at       atomic.Int64  // Unix time of estimate in nanoseconds
}

// At returns the estimate at a Unix time in nanoseconds, and in nanoseconds too; 0:
// not known.
func (l *Latency) At(now int64) float64 {
	bits := l.estimate.Load()
	if bits == 0 {
		return 0
	}
	estimate := math.Float64frombits(bits) * l.fade(now)
	if estimate < negligible {
		return 0
	}
	return estimate
}

// Observe takes note of an answer and how long it took. Where it was a failure,
// it counts as longer than that.
func (l *Latency) Observe(at time.Time, took time.Duration, failed bool) {
	now := at.UnixNano()
	for {
		old := l.estimate.Load()
		before := math.Float64frombits(old)
		sample := max(float64(took), negligible)
		fade := l.fade(now)
		if failed {
			penalty := min(max(2*before*fade, float64(leastPenalty)), float64(mostPenalty))
			sample = max(sample, penalty)
		}
		next := sample
		if before > sample {
			next = before*fade + sample*(1-fade)
		}
		if l.estimate.CompareAndSwap(old, math.Float64bits(next)) {
			// Another's time of the same moment makes no difference.
			l.at.Store(now)
			return
		}
	}
}

// fade is what is left at a time of a whole that the estimate was when it was
// made.
func (l *Latency) fade(now int64) float64 {
	passed := now - l.at.Load()
	if passed <= 0 {
		return 1
	}
	return math.Exp(-float64(passed) / float64(memory))
}
