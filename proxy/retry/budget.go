package retry

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// windowSeconds is how long RPCs and further attempts count in a budget.
const windowSeconds = 10

// BudgetOptions say how many attempts beyond the first there may be: Ratio of the
// RPCs of the last 10 seconds, and MinPerSecond for each of these seconds. What the
// second allows may come at once: over any time, there are at most
//
//	Ratio × RPCs + MinPerSecond × (seconds + 10)
//
// of them.
type BudgetOptions struct{ Ratio, MinPerSecond float64 }

// budget counts in seconds: what is 10 of them old or older does not count.
type budget struct {
	opts BudgetOptions
	base time.Time // seconds are counted from here

	rpcs [window]atomic.Uint64 // second and number, see slot

	mu    sync.Mutex
	extra [window]struct {
		second int64
		n      float64
	}
}

// window is how many seconds there is room for: a power of two.
const window = 16

// The upper half of a slot is the second that it counts, the lower half the number.
func slot(second int64, n uint32) uint64 { return uint64(uint32(second))<<32 | uint64(n) }

func (b *budget) second(now time.Time) int64 {
	// The first second is not 0, which is what empty slots say.
	return max(int64(now.Sub(b.base)/time.Second), 0) + windowSeconds
}

// begin counts an RPC.
func (b *budget) begin(now time.Time) {
	second := b.second(now)
	at := &b.rpcs[second%window]
	for {
		old := at.Load()
		next := old + 1
		switch {
		case int32(uint32(old>>32)-uint32(second)) > 0:
			return // this goroutine is very late
		case uint32(old>>32) != uint32(second):
			next = slot(second, 1)
		case uint32(old) == math.MaxUint32:
			return
		}
		if at.CompareAndSwap(old, next) {
			return
		}
	}
}

// take counts one more attempt, if it is allowed.
func (b *budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	second := b.second(now)
	rpcs, extra := b.sum(second)
	if extra+1 > b.allowed(rpcs) {
		return false
	}
	e := &b.extra[second%window]
	if e.second != second {
		e.second, e.n = second, 0
	}
	e.n++
	return true
}

// sum counts what is not too old. b.mu is held.
func (b *budget) sum(second int64) (rpcs, extra float64) {
	for age := range int64(windowSeconds) {
		s := second - age
		if n := b.rpcs[s%window].Load(); uint32(n>>32) == uint32(s) {
			rpcs += float64(uint32(n))
		}
		if e := &b.extra[s%window]; e.second == s {
			extra += e.n
		}
	}
	return rpcs, extra
}

// allowed is how many further attempts there may be beside so many RPCs.
func (b *budget) allowed(rpcs float64) float64 {
	return b.opts.Ratio*rpcs + b.opts.MinPerSecond*windowSeconds
}
