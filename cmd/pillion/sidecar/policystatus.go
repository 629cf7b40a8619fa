package sidecar

import (
	"maps"
	"slices"
	"time"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
)

// policyState says how one policy stands, and since when.
type policyState struct {
	state    adminv1.PolicyState
	problems []string
	since    time.Time
}

// note takes down how each policy stands from now on. p.mu is held.
func (p *policies) note(set *policy.Set, refused []registry.RefusedPolicy, now time.Time) {
	if set.Version() != p.set.Version() {
		p.since = now
	}
	states := make(map[string]policyState, set.Len())
	for one := range set.All() {
		states[one.Source.GetName()] = policyState{state: adminv1.PolicyState_POLICY_STATE_IN_FORCE}
	}
	for _, r := range refused {
		st := states[r.Policy]
		switch {
		case st.state == adminv1.PolicyState_POLICY_STATE_UNSPECIFIED:
			st.state = adminv1.PolicyState_POLICY_STATE_REFUSED
		case st.state == adminv1.PolicyState_POLICY_STATE_IN_FORCE && !r.Partial:
			st.state = adminv1.PolicyState_POLICY_STATE_KEPT
		}
		st.problems = append(st.problems, r.Problem)
		states[r.Policy] = st
	}
	for name, st := range states {
		st.since = now
		if before, known := p.states[name]; known && before.state == st.state {
			st.since = before.since
		}
		states[name] = st
	}
	p.states = states
}

// Policies implements server.Policies.
func (p *policies) Policies() *adminv1.Policies {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &adminv1.Policies{Version: p.set.Version(), Since: timestamp(p.since)}
	inForce := make(map[string]policy.InForce, p.set.Len())
	for one := range p.set.All() {
		inForce[one.Source.GetName()] = one
	}
	for _, name := range slices.Sorted(maps.Keys(p.states)) {
		st := p.states[name]
		status := &adminv1.PolicyStatus{Name: name, State: st.state, Problems: slices.Clone(st.problems), Since: timestamp(st.since)}
		if one, ok := inForce[name]; ok {
			status.Service, status.Kind, status.Inbound = one.Source.GetService(), one.Kind.String(), one.Source.GetInbound()
			status.Methods = slices.Clone(one.Source.GetMethods())
			status.Where = p.all.Places[name]
		}
		out.List = append(out.List, status)
	}
	return out
}

// count returns how many policies are in force, and how many were refused. One of which a
// part alone is not obeyed is in force.
func (p *policies) count() (version string, inForce, refused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.states {
		if st.state != adminv1.PolicyState_POLICY_STATE_IN_FORCE {
			refused++
		}
	}
	return p.set.Version(), p.set.Len(), refused
}

// inForce returns the policies that hold, and as they were written.
func (p *policies) inForce() (*policy.Set, *registry.Policies) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set, p.all
}
