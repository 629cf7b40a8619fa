package admission

import (
	"strings"
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
	// Count is how many RPCs were under way when this one came, itself included.
	Count int64
}

// healthPrefix begins the paths of health checks. The limit lets them pass, or an
// app that is busy would be taken for one that is ill.
const healthPrefix = "/grpc.health.v1.Health/"

// Enter counts an RPC as under way, until Exit, and says whether it may begin.
// Even one that may not has to Exit: it holds memory as long as its answer was
// not taken.
func (g *Gate) Enter(p *Pass, now time.Time, path string) Verdict {
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
	if p.cohort = g.limiter.enter(now.Sub(g.limiter.made)); p.cohort == nil && !strings.HasPrefix(path, healthPrefix) {
		g.counts.Shed[telemetry.ShedConcurrency].Add(1)
		return OverLimit
	}
	return Admitted
}

// Answered says that the app has begun to answer. asked is when the request was
// complete, the zero time where it is not: then how long the app took depends on
// the caller.
func (p *Pass) Answered(now, asked time.Time) {
	if p.cohort == nil {
		return
	}
	p.gate.limiter.leave(p.cohort)
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
		l.leave(p.cohort)
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
