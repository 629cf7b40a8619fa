package admission

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// limiter counts the RPCs that the app has not begun to answer, against a limit
// that follows from how long it takes. It has no goroutine and no timer: whoever
// comes by after a window's end judges it.
type limiter struct {
	made   time.Time
	counts *telemetry.Admission // Limit and Waiting are the limiter's own state

	peak    atomic.Int64 // the most that waited at once in this window
	from    atomic.Int64 // when the window begins, since made: before, the last limit is felt
	due     atomic.Int64 // when the window may be judged
	least   atomic.Int64 // an RPC that ends unanswered tells something from this on
	cohort  atomic.Pointer[cohort]
	samples samples

	mu      sync.Mutex
	ctl     *controller
	cohorts []*cohort // not retired yet, the oldest first
}

func newLimiter(c Concurrency, counts *telemetry.Admission, now time.Time) *limiter {
	l := &limiter{made: now, counts: counts, ctl: newController(c.WithDefaults())}
	first := new(cohort)
	l.cohort.Store(first)
	l.cohorts = []*cohort{first}
	l.due.Store(int64(windowTime))
	l.publish()
	return l
}

// enter counts an RPC. It returns nil where the limit is reached.
func (l *limiter) enter(now time.Duration) *cohort {
	// Looked at before it is counted, so that a flood of RPCs that are refused
	// only reads.
	limit := l.counts.Limit.Load()
	if l.counts.Waiting.Load() >= limit {
		l.tick(now)
		return nil
	}
	n := l.counts.Waiting.Add(1)
	if n > limit {
		l.counts.Waiting.Add(-1)
		return nil
	}
	for {
		peak := l.peak.Load()
		if n <= peak || l.peak.CompareAndSwap(peak, n) {
			break
		}
	}
	for {
		if c := l.cohort.Load(); c.join() {
			return c
		}
	}
}

// leave takes an RPC off the count: the app has begun to answer, or never will.
func (l *limiter) leave(c *cohort) {
	if c.leave() {
		l.counts.Waiting.Add(-1)
	}
}

// answered notes how long the app took for an RPC.
func (l *limiter) answered(now, took time.Duration) {
	if now >= time.Duration(l.from.Load()) {
		l.samples.add(took)
	}
	l.tick(now)
}

// unanswered notes that an RPC ended without an answer after the app had so long: it
// would have taken even longer.
func (l *limiter) unanswered(now, took time.Duration) {
	if took >= time.Duration(l.least.Load()) {
		l.answered(now, took)
	}
}

// tick judges the window where it is over.
func (l *limiter) tick(now time.Duration) {
	if now < time.Duration(l.due.Load()) || !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	if now < time.Duration(l.due.Load()) {
		return
	}
	l.age(now)
	w := window{
		now: now, took: now - time.Duration(l.from.Load()),
		samples: l.samples.count.Load(), median: l.samples.median(), peak: l.peak.Load(),
	}
	if !l.ctl.complete(w) {
		l.due.Store(int64(now + windowTime/4))
		return
	}
	before, was := int64(l.ctl.limit), l.ctl.state
	l.ctl.step(w)
	from := now
	if int64(l.ctl.limit) != before || l.ctl.state != was {
		from += l.ctl.lag(w)
	}
	l.from.Store(int64(from))
	l.due.Store(int64(from + l.ctl.windowFor()))
	l.samples.clear()
	l.peak.Store(l.counts.Waiting.Load())
	l.publish()
}

// publish makes the controller's decision known. l.mu is held, or l is new.
func (l *limiter) publish() {
	l.counts.Limit.Store(int64(l.ctl.limit))
	l.counts.Latency.Store(int64(l.ctl.latency))
	least := l.ctl.allowed()
	if l.ctl.latency == 0 || l.ctl.state == measuring {
		least = mostPatience // it would be taken for the latency without a queue
	}
	l.least.Store(int64(least))
}

// age begins a new cohort where it is time, and retires old ones. l.mu is held.
func (l *limiter) age(now time.Duration) {
	counted := patienceFor(l.ctl.latency)
	if now-l.cohort.Load().began >= counted/cohortsAtOnce {
		c := &cohort{began: now}
		l.cohorts = append(l.cohorts, c)
		l.cohort.Store(c)
	}
	for len(l.cohorts) > 1 && now-l.cohorts[1].began >= counted { // where the next began, it ended
		if n := l.cohorts[0].retire(); n > 0 {
			l.counts.Waiting.Add(-n)
		}
		l.cohorts = l.cohorts[1:]
	}
}
