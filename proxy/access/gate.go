package access

import (
	"iter"
	"sync/atomic"

	"github.com/pillion-proxy/pillion/identity"
)

// Gate holds the policy that is in force. The zero value lets everything through.
type Gate struct {
	policy atomic.Pointer[Policy]
}

// Set puts another policy in force; nil: none. What was counted of policies that the new
// one has as well goes on. Calls must not overlap.
func (g *Gate) Set(p *Policy) {
	if before := g.policy.Load(); before != nil && p != nil {
		p.takeOver(before)
	}
	g.policy.Store(p)
}

// Policy returns the policy in force; nil: none is.
func (g *Gate) Policy() *Policy { return g.policy.Load() }

// Present returns what the policy in force says of a caller, given what was said of it
// before, which may be nil; nil: nothing is, and everything is allowed. It costs next to
// nothing while the policy stays the same.
func (g *Gate) Present(before *Caller, peer *identity.Peer) *Caller {
	p := g.policy.Load()
	switch {
	case p == nil:
		return nil
	case before != nil && before.policy == p:
		return before
	}
	return p.For(peer)
}

// Counts are how often somebody refused, or would have.
type Counts struct {
	// Refused are RPCs that were refused.
	Refused atomic.Uint64
	// Audited are RPCs that were let through, and that what is in mode "audit" would have
	// refused.
	Audited atomic.Uint64
}

// Intentions is the name under which what Consul's intentions refuse is counted.
const Intentions = "consul-intentions"

// Counts returns what was counted by the name of each access policy in force, and by
// [Intentions].
func (g *Gate) Counts() iter.Seq2[string, *Counts] {
	return func(yield func(string, *Counts) bool) {
		p := g.policy.Load()
		if p == nil {
			return
		}
		for _, t := range p.tallies {
			if !yield(t.label, t.counts) {
				return
			}
		}
	}
}

// takeOver goes on counting where another has begun, before the policy is in force.
func (p *Policy) takeOver(before *Policy) {
	counts := make(map[string]*Counts, len(before.tallies))
	for _, t := range before.tallies {
		counts[t.label] = t.counts
	}
	for _, t := range p.tallies {
		if known := counts[t.label]; known != nil {
			t.counts = known
		}
	}
}
