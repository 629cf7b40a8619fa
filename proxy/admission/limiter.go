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
	ageAt   atomic.Int64 // when there may be a cohort to begin or to retire
	classes [stages]class
	samples samples

	mu   sync.Mutex
	ctl  *controller
	aged time.Duration // when the present cohorts began
}

func newLimiter(c Concurrency, counts *telemetry.Admission, now time.Time) *limiter {
	l := &limiter{made: now, counts: counts, ctl: newController(c.WithDefaults())}
	for stage := range stages {
		l.classes[stage].init(stage, &counts.Waiting)
	}
	l.due.Store(int64(windowTime))
	l.publish()
	return l
}

// enter counts an RPC. It returns nil where the limit is reached (OverLimit), or
// the share that requests of this stage have of it (Early).
func (l *limiter) enter(now time.Duration, stage Stage) (*cohort, Verdict) {
	// Looked at before it is counted, so that a flood of RPCs that are refused
	// only reads.
	limit := l.counts.Limit.Load()
	bound := limit
	if said := l.classes[Said].count.Load(); said > 0 {
		// They may be more than their share, since the limit may have fallen after they
		// were let in, or be 1.
		bound += max(said-limit+reserved(limit), 0)
	}
	if l.counts.Waiting.Load() >= bound {
		l.tick(now)
		return nil, OverLimit
	}
	class := &l.classes[stage]
	if !class.take(limit) {
		l.tick(now)
		return nil, Early
	}
	if stage != Begun {
		n := l.counts.Waiting.Add(1)
		if n > bound {
			class.release(1)
			return nil, OverLimit
		}
		l.most(n)
	}
	return class.join(), Admitted
}

// proceed counts an RPC whose request has come further since it was let in. It may be
// above the limit for that, by what Begun has for its share. Where the stage has no
// place left, it stays in the class where it is.
func (l *limiter) proceed(from *cohort, stage Stage) *cohort {
	class := &l.classes[stage]
	if !class.take(l.counts.Limit.Load()) {
		return from
	}
	l.most(l.counts.Waiting.Add(1))
	from.done()
	return class.join()
}

// most notes how many RPCs wait.
func (l *limiter) most(n int64) {
	for {
		peak := l.peak.Load()
		if n <= peak || l.peak.CompareAndSwap(peak, n) {
			return
		}
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

// tick retires what is old, and judges the window where it is over.
func (l *limiter) tick(now time.Duration) {
	if now < time.Duration(min(l.due.Load(), l.ageAt.Load())) || !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	if now >= time.Duration(l.ageAt.Load()) {
		l.age(now)
	}
	if now < time.Duration(l.due.Load()) {
		return
	}
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
	l.ageAt.Store(int64(l.aged + patienceFor(l.ctl.latency)/cohortsAtOnce))
}

// age begins new cohorts and retires old ones. It has a time of its own, since a
// window may be long in coming to its end. l.mu is held.
func (l *limiter) age(now time.Duration) {
	counted := patienceFor(l.ctl.latency)
	for i := range l.classes {
		l.classes[i].age(now, counted)
	}
	l.aged = now
	l.ageAt.Store(int64(now + counted/cohortsAtOnce))
}
