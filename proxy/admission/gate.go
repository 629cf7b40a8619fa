package admission

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Verdict is what becomes of an RPC.
type Verdict uint8

// The verdicts.
const (
	// Admitted: it may begin.
	Admitted Verdict = iota
	// TooMany: as many RPCs are under way as may be.
	TooMany
	// FarTooMany: as TooMany, and so many of those refused still hold memory,
	// because nobody reads their answers, that this one is not worth an answer.
	FarTooMany
	// OverLimit: the app has as many as it can have without becoming slow.
	OverLimit
	// Early: as many RPCs as may be have come to the app with requests that are
	// not complete. It may begin once its own is: see More.
	Early
)

// Options configure a Gate.
type Options struct {
	// MaxRPCs bounds the RPCs under way. 0: no bound.
	MaxRPCs int
	// Concurrency is the adaptive limit; nil: none.
	Concurrency *Concurrency
	// Counts is where RPCs are counted; nil: somewhere nobody looks.
	Counts *telemetry.Admission
}

// Gate is what the RPCs of one direction pass. It is safe for concurrent use. A
// nil *Gate lets everything pass and counts nothing.
type Gate struct {
	max     int64
	counts  *telemetry.Admission
	limiter *limiter
}

// NewGate returns a gate.
func NewGate(o Options) *Gate {
	g := &Gate{max: int64(o.MaxRPCs), counts: o.Counts}
	if g.counts == nil {
		g.counts = new(telemetry.Admission)
	}
	if o.Concurrency != nil {
		g.limiter = newLimiter(*o.Concurrency, g.counts, time.Now())
	}
	return g
}

// Pass is one RPC at a gate. Its methods are called by one goroutine at a time;
// the zero value has not entered.
type Pass struct {
	gate   *Gate
	cohort *cohort       // nil: the limiter does not count it, or not any more
	took   time.Duration // what the app took; 0: not known
	early  bool          // the verdict was Early
	health bool          // it is a health check
	// Count is how many RPCs were under way when this one came, itself included.
	Count int64
}

// EarlyTime is how long an RPC may be Early, so that none of them waits, or keeps
// memory, for ever.
const EarlyTime = time.Second

// isHealth says that a path is a health check's. The limit lets those pass, or an
// app that is busy would be taken for one that is ill; and only those, or their
// service's name would be the way around the limit.
func isHealth(path string) bool {
	switch path {
	case "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List":
		return true
	}
	return false
}

// Enter counts an RPC as under way, until Exit, and says whether it may begin.
// Even one that may not has to Exit: it holds memory as long as its answer was
// not taken.
func (g *Gate) Enter(p *Pass, now time.Time, path string, stage Stage) Verdict {
	if g == nil {
		return Admitted
	}
	p.gate = g
	p.Count = g.counts.InFlight.Add(1)
	if g.max > 0 && p.Count > g.max {
		g.counts.Shed[telemetry.ShedMaxRPCs].Add(1)
		if p.Count > g.max+max(g.max/8, 100) {
			return FarTooMany
		}
		return TooMany
	}
	if g.limiter == nil {
		return Admitted
	}
	p.health = isHealth(path)
	return p.enter(now, stage)
}

// enter asks the limiter.
func (p *Pass) enter(now time.Time, stage Stage) (v Verdict) {
	l := p.gate.limiter
	p.cohort, v = l.enter(now.Sub(l.made), stage)
	if v != Admitted && p.health {
		if v = Admitted; stage == Begun {
			v = Early // one that is not complete checks nothing
		}
	}
	if p.early = v == Early; v == OverLimit {
		p.gate.counts.Shed[telemetry.ShedConcurrency].Add(1)
	}
	return v
}

// Wants says that the gate has to be told, by More, that the request has come as far
// as stage.
func (p *Pass) Wants(stage Stage) bool {
	return p.early || p.cohort != nil && p.cohort.class.stage < stage
}

// More says that the request has come as far as stage. The verdict is another than
// Admitted where the RPC was Early, or where it began to be sent so long ago that
// nobody counted on it any more: then it is OverLimit though the app may have seen it.
func (p *Pass) More(now time.Time, stage Stage) Verdict {
	switch {
	case !p.Wants(stage):
		return Admitted
	case p.early:
		return p.enter(now, stage)
	}
	if c := p.cohort; c.class.stage == Begun && c.retired() {
		c.done()
		return p.Late(now, stage) // it is with the app: it cannot wait
	}
	p.cohort = p.gate.limiter.proceed(p.cohort, stage)
	return Admitted
}

// Late asks for the last time for an RPC that was Early: it is not so again.
func (p *Pass) Late(now time.Time, stage Stage) Verdict {
	v := p.enter(now, stage)
	if v == Early {
		p.early = false
		p.gate.counts.Shed[telemetry.ShedConcurrency].Add(1)
		return OverLimit
	}
	return v
}

// Answered says that the app has begun to answer. asked is when the request was
// complete, the zero time where it is not: then how long the app took depends on
// the caller.
func (p *Pass) Answered(now, asked time.Time) {
	if p.cohort == nil {
		return
	}
	p.cohort.done()
	p.cohort = nil
	if !asked.IsZero() {
		p.took = max(now.Sub(asked), 1)
	}
}

// End says that the RPC is over. asked is as of Answered: what ends before all of the
// request is there says nothing of the app, however long its caller took. typical
// says that how long it took tells what others will: it was answered well, and was no
// stream.
func (p *Pass) End(now, asked time.Time, typical bool) {
	if p.gate == nil || p.gate.limiter == nil {
		return
	}
	l := p.gate.limiter
	at := now.Sub(l.made)
	switch {
	case p.cohort != nil:
		p.cohort.done()
		p.cohort = nil
		if !asked.IsZero() {
			l.unanswered(at, now.Sub(asked))
		}
	case p.took > 0 && typical:
		l.answered(at, p.took)
	}
	p.took = 0
}

// Exit says that the RPC holds nothing any more.
func (p *Pass) Exit() {
	if p.gate != nil {
		p.gate.counts.InFlight.Add(-1)
	}
	*p = Pass{}
}
