package upstream

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// judge is what looks at how RPCs to one instance end. There is none where no policy
// asks for it. It never changes: it is replaced.
type judge struct {
	of    *judges
	rules *judging

	host    *outlier.Host // nil: no ejection
	breaker *breaker.Breaker
	asker   *asker // nil: no health checks
}

// judging is what instances are judged by.
type judging struct {
	ejection *outlier.Config // nil: no ejection
	health   *health.Config  // nil: no health checks
	trip     *breaker.Trip   // nil: instances have no breakers
	failures wire.CodeSet    // what counts as a failure for trip
	policy   string          // that trip comes from
}

// judgingOf is what a policy says of it.
func judgingOf(p *Policy) *judging {
	return &judging{
		ejection: p.Ejection, health: p.Health, trip: p.Breaker, failures: p.BreakerFailures, policy: p.BreakerPolicy,
	}
}

// none says that nothing is judged.
func (r *judging) none() bool { return r.ejection == nil && r.health == nil && r.trip == nil }

func (j *judge) begin(now time.Time) breaker.Ticket {
	if j.breaker == nil {
		return breaker.Ticket{}
	}
	// Where all probes are taken by now, it goes all the same, and counts for
	// nothing: whoever chose the instance saw that there was one, or had no better.
	ticket, _ := j.breaker.Allow(now)
	return ticket
}

func (j *judge) observe(now time.Time, o *Outcome) {
	if j.host != nil && !o.Excused {
		j.host.Record(now, j.rules.ejection.Failures.Has(o.Code))
	}
	if j.breaker != nil {
		j.breaker.Done(now, o.Turn.ticket, breaker.Judge(j.rules.failures, o.Code, o.Excused), o.FirstByte)
	}
}
