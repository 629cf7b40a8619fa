package policy

import (
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/internal/later"
)

// compileBreaker compiles a circuit breaker policy, but for the instances' own. The
// breakers of the one before, which may be nil, stay where trip says the same.
func (p *problems) compileBreaker(m *configv1.CircuitBreakerPolicy, inbound bool, before *breaker.Policy) *breaker.Policy {
	const field = "circuit_breaker"
	if m.GetTrip() == nil && m.GetPerInstance() == nil && m.MaxConcurrent == nil {
		p.addf(field, "does nothing: write trip, per_instance or max_concurrent")
	}
	if m.GetMaxPending() > 0 && m.MaxConcurrent == nil {
		p.addf(field+".max_pending", "is how many wait for max_concurrent, which is missing: write it too")
	}
	p.checkTrip(field+".trip", m.GetTrip())
	p.checkTrip(field+".per_instance", m.GetPerInstance())
	if inbound {
		const reason = "does not go with inbound, where a breaker could only keep RPCs from the one app there is: leave it out"
		if m.GetTrip() != nil {
			p.addf(field+".trip", reason)
		}
		if m.GetPerInstance() != nil {
			p.addf(field+".per_instance", reason)
		}
	}
	name, logger := p.policy, p.env.Logger
	news := new(later.Queue) // whoever changes a breaker holds an RPC's lock
	return breaker.NewPolicy(breaker.PolicyOptions{
		Name:          name,
		Trip:          trip(m.GetTrip()),
		Failures:      p.codes(field+".failure_codes", m.GetFailureCodes()),
		MaxConcurrent: int(m.GetMaxConcurrent()),
		MaxPending:    int(m.GetMaxPending()),
		Together:      m.GetTogether(),
		Before:        before,
		Changed: func(key breaker.Key, t breaker.Transition) {
			if logger != nil {
				news.Offer(func() {
					logger.Info("circuit breaker: "+t.To.String(), "policy", name, "service", key.Service, "method", key.Path,
						"from", t.From.String(), "reason", t.Reason, "open_for", t.OpenFor)
				})
			}
		},
	})
}

// trip says when a breaker opens; nil: never.
func trip(m *configv1.BreakerTrip) *breaker.Trip {
	if m == nil {
		return nil
	}
	return &breaker.Trip{
		ConsecutiveFailures: int(m.GetConsecutiveFailures()),
		FailureRatio:        m.GetFailureRatio(),
		SlowCallRatio:       m.GetSlowCallRatio(),
		SlowCall:            m.GetSlowCall().AsDuration(),
		Window:              m.GetWindow().AsDuration(),
		MinVolume:           int(m.GetMinVolume()),
		OpenFor:             m.GetOpenFor().AsDuration(),
		MaxOpenFor:          m.GetMaxOpenFor().AsDuration(),
		Probes:              int(m.GetProbes()),
	}
}

// checkTrip checks what is between a trip's fields.
func (p *problems) checkTrip(field string, m *configv1.BreakerTrip) {
	if m == nil {
		return
	}
	if m.GetConsecutiveFailures() == 0 && m.FailureRatio == nil && m.SlowCallRatio == nil {
		p.addf(field, "never opens: write consecutive_failures, failure_ratio or slow_call_ratio")
	}
	if m.SlowCallRatio != nil && m.GetSlowCall() == nil {
		p.addf(field+".slow_call", "is missing: slow_call_ratio needs it to know what is slow")
	}
	if m.SlowCallRatio == nil && m.GetSlowCall() != nil {
		p.addf(field+".slow_call_ratio", "is missing: without it slow_call means nothing")
	}
	if m.GetMaxOpenFor() != nil && m.GetMaxOpenFor().AsDuration() < m.GetOpenFor().AsDuration() {
		p.addf(field+".max_open_for", "is %v, less than open_for, %v", m.GetMaxOpenFor().AsDuration(), m.GetOpenFor().AsDuration())
	}
}
