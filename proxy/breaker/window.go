package breaker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// slots is how many parts a window has. It forgets one at a time.
const slots = 10

// window counts results of the recent past: those of the slot that is running, and of
// the nine before it.
type window struct {
	length int64         // of a slot, in ns
	ends   atomic.Int64  // when the running slot does, on clock's scale; unset: nothing was counted yet
	now    atomic.Uint32 // which is running
	past   tally         // the sum of the others when it began
	// What each result is written to stays off the lines that are only read.
	_     [64]byte
	slots [slots]slot
}

// slot is a tally on a cache line of its own.
type slot struct {
	tally
	_ [64 - 24]byte
}

const unset = math.MinInt64

// tally is counts that several goroutines add to.
type tally struct{ total, failures, slow atomic.Int64 }

// counts is what a tally had at one moment.
type counts struct{ total, failures, slow int64 }

// epoch is what times are measured from: only their differences matter.
var epoch = time.Now()

// clock returns a time as a number, of the monotonic clock where it has that.
func clock(now time.Time) int64 { return int64(now.Sub(epoch)) }

func newWindow(length time.Duration) *window {
	w := &window{length: max(int64(length)/slots, 1)}
	w.ends.Store(unset)
	return w
}

// add counts a result and returns what the window has then, perhaps a little wrong
// while a slot ends. mu guards the change of slots.
func (w *window) add(mu *sync.Mutex, now time.Time, failed, slow bool) counts {
	at := clock(now)
	if at >= w.ends.Load() {
		w.turn(mu, at)
	}
	s := &w.slots[w.now.Load()]
	var f, l int64
	if failed {
		f = s.failures.Add(1)
	} else {
		f = s.failures.Load()
	}
	if slow {
		l = s.slow.Add(1)
	} else {
		l = s.slow.Load()
	}
	return counts{
		total:    s.total.Add(1) + w.past.total.Load(),
		failures: f + w.past.failures.Load(),
		slow:     l + w.past.slow.Load(),
	}
}

// turn goes on to the slot of a time.
func (w *window) turn(mu *sync.Mutex, at int64) {
	mu.Lock()
	defer mu.Unlock()
	if w.ends.Load() == unset { // slots begin with the first result
		w.ends.Store(at + w.length)
		return
	}
	w.forget(at)
}

// forget goes on to the slot of a time, where there are slots. The breaker's lock is
// held.
func (w *window) forget(at int64) {
	ends := w.ends.Load()
	if at < ends || ends == unset {
		return
	}
	over := (at-ends)/w.length + 1
	running := w.now.Load()
	for range min(over, slots) {
		running = (running + 1) % slots
		w.slots[running].reset()
	}
	w.now.Store(running)
	// The running slot is empty but for what others add to it meanwhile, which must
	// not be in the sum of the past as well.
	w.past.reset()
	for i := range w.slots {
		if uint32(i) != running {
			w.past.add(w.slots[i].counts())
		}
	}
	w.ends.Store(ends + over*w.length)
}

// sum returns what the window has. The breaker's lock is held.
func (w *window) sum() (sum counts) {
	for i := range w.slots {
		c := w.slots[i].counts()
		sum.total += c.total
		sum.failures += c.failures
		sum.slow += c.slow
	}
	return sum
}

func (t *tally) counts() counts {
	return counts{t.total.Load(), t.failures.Load(), t.slow.Load()}
}

func (t *tally) reset() {
	t.total.Store(0)
	t.failures.Store(0)
	t.slow.Store(0)
}

func (t *tally) add(c counts) {
	t.total.Add(c.total)
	t.failures.Add(c.failures)
	t.slow.Add(c.slow)
}

// broken says that a share opens the breaker.
func (c counts) broken(t *Trip) bool { return c.failing(t) || c.slowing(t) }

func (c counts) failing(t *Trip) bool {
	return t.FailureRatio > 0 && c.total >= int64(t.MinVolume) && reaches(c.failures, c.total, t.FailureRatio)
}

func (c counts) slowing(t *Trip) bool {
	return t.SlowCallRatio > 0 && c.total >= int64(t.MinVolume) && reaches(c.slow, c.total, t.SlowCallRatio)
}

// reaches says that part is at least a share of total. What is nothing never is.
func reaches(part, total int64, share float64) bool {
	return part > 0 && float64(part) >= share*float64(total)
}
