package policy

import (
	"fmt"
	"slices"
)

// Obstacle says why split policies of a service (canaries, experiments) choose no part of it
// for any RPC that is addressed to it, because a route does for all; "": they do for some.
func (s *Set) Obstacle(service string) string {
	if s == nil {
		return ""
	}
	for _, name := range []string{service, AllServices} {
		for _, e := range s.entries {
			if e.kind != KindRoute || e.inbound || e.service() != name || !slices.Contains(e.selectors, everything) {
				continue
			}
			if why := e.route.obstacle(service, e.selectors); why != "" && !s.leftByMethod(service) {
				return why
			}
			return ""
		}
	}
	return ""
}

// leftByMethod says whether a route for some methods may leave their RPCs to split policies.
func (s *Set) leftByMethod(service string) bool {
	return slices.ContainsFunc(s.entries, func(e *entry) bool {
		return e.kind == KindRoute && !e.inbound && (e.service() == service || e.service() == AllServices) &&
			!slices.Contains(e.selectors, everything) && e.route.obstacle(service, e.selectors) == ""
	})
}

// obstacle is Set.Obstacle for one route, whose selectors are these.
func (r *Route) obstacle(service string, selectors []selector) string {
	for i := range r.rules {
		rule := &r.rules[i]
		if rule.leaves(service) {
			return ""
		}
		if rule.match.covers(nil, selectors) {
			return fmt.Sprintf("policy %q sends all RPCs to parts of the service, or elsewhere, the last of them by rule %q: canaries and experiments divide what no route has sent to a part of the service", r.Policy, rule.Name)
		}
	}
	return ""
}

// leaves says whether a rule leaves the choice of a part of the service to split policies,
// for some of the RPCs that it is for.
func (r *Rule) leaves(service string) bool {
	if r.Status != nil {
		return false
	}
	leaves := func(to, subset string) bool {
		return (to == "" || to == service) && (subset == "" || r.Yields)
	}
	if r.split == nil {
		return leaves(r.service, r.subset)
	}
	return slices.ContainsFunc(r.split.groups, func(g Group) bool { return g.weight > 0 && leaves(g.service, g.subset) })
}
