package policy

import (
	"iter"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/retry"
)

// InForce is one policy that is in force, for people and metrics.
type InForce struct {
	// Source is the policy as it was written, with its defaults. It must not be changed.
	Source *configv1.Policy
	Kind   Kind
	// What Kind says is set, of these.
	Breaker   *breaker.Policy
	RateLimit *RateLimit
	Fault     *Fault
	Retry     *retry.Policy
	Hedging   *retry.Hedging
	Route     *Route
}

// All returns the policies in force, in the order in which they were written.
func (s *Set) All() iter.Seq[InForce] {
	return func(yield func(InForce) bool) {
		if s == nil {
			return
		}
		for _, e := range s.entries {
			if !yield(e.inspect()) {
				return
			}
		}
	}
}

// Policy returns the policy in force of a name.
func (s *Set) Policy(name string) (InForce, bool) {
	if s == nil || s.byName[name] == nil {
		return InForce{}, false
	}
	return s.byName[name].inspect(), true
}

func (e *entry) inspect() InForce {
	return InForce{
		Source: e.source, Kind: e.kind,
		Breaker: e.breaker, RateLimit: e.rateLimit, Fault: e.fault, Retry: e.retry, Hedging: e.hedging, Route: e.route,
	}
}
