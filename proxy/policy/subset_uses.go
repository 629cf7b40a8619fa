package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// subsetUse is a field that names a subset of a service.
type subsetUse struct {
	field, service, subset string
}

// subsetUses returns where a policy names subsets. A service that is not named is the
// policy's own; "*" where that is any.
func subsetUses(m *configv1.Policy) (uses []subsetUse) {
	add := func(field, service, subset string) {
		if subset == "" {
			return
		}
		if service == "" {
			service = m.GetService()
		}
		uses = append(uses, subsetUse{field, service, subset})
	}
	destination := func(field string, d *configv1.Destination) { add(field+".subset", d.GetService(), d.GetSubset()) }
	for i, rule := range m.GetRoute().GetRules() {
		field := at("route.rules", i)
		destination(field+".to", rule.GetTo())
		for j, d := range rule.GetSplit().GetDestinations() {
			add(at(field+".split.destinations", j)+".subset", d.GetService(), d.GetSubset())
		}
		destination(field+".mirror.to", rule.GetMirror().GetTo())
	}
	for i, d := range m.GetSplit().GetSplit().GetDestinations() {
		add(at("split.split.destinations", i)+".subset", d.GetService(), d.GetSubset())
	}
	for i, d := range m.GetLoadBalancing().GetFailover() {
		destination(at("load_balancing.failover", i), d)
	}
	subsets := m.GetSubsets().GetSubsets()
	for _, name := range slices.Sorted(maps.Keys(subsets)) {
		for i, d := range subsets[name].GetFailover() {
			destination(at(of("subsets.subsets", name)+".failover", i), d)
		}
	}
	return uses
}

// checkSubsets refuses policies that name subsets which their service's subsets policy
// does not have. Where a service has no such policy, the subset may be told of later:
// that is for [Warnings] to say.
func (c *compilation) checkSubsets() {
	subsets := map[string]*entry{}
	for _, e := range c.set.entries {
		if e.kind == KindSubsets {
			subsets[e.service()] = e
		}
	}
	if len(subsets) == 0 {
		return
	}
	inForce := make([]*entry, 0, len(c.set.entries))
	for _, e := range c.set.entries {
		if e = c.withKnownSubsets(e, subsets); e != nil {
			inForce = append(inForce, e)
		}
	}
	c.set.entries = inForce
}

// withKnownSubsets returns the entry, or what is in force in its place because it names
// subsets that are not there; nil: nothing is.
func (c *compilation) withKnownSubsets(e *entry, subsets map[string]*entry) *entry {
	if c.kept[e] { // it is refused already, and what is wrong with it is no news
		return e
	}
	known := len(c.refusals)
	for _, use := range subsetUses(e.source) {
		defined := subsetsOf(subsets, use.service)
		if defined == nil {
			continue
		}
		names := defined.source.GetSubsets().GetSubsets()
		if _, found := names[use.subset]; !found {
			c.refuse(e.name(), use.field, fmt.Sprintf("service %q has no subset %q: policy %q has %s",
				use.service, use.subset, defined.name(), strings.Join(slices.Sorted(maps.Keys(names)), ", ")))
		}
	}
	if len(c.refusals) == known {
		return e
	}
	// What held before goes on, even if it names the same subset, which then stays too:
	// see keepSubsets.
	for _, claim := range e.claims() {
		delete(c.taken, claim)
	}
	delete(c.set.byName, e.name())
	before := c.before(e.name())
	if before == nil {
		return nil
	}
	claims := before.claims()
	if slices.ContainsFunc(claims, func(claim claim) bool { return c.taken[claim] != nil }) {
		return nil
	}
	for _, claim := range claims {
		c.taken[claim] = before
	}
	c.set.byName[e.name()] = before
	c.keep(before)
	return before
}

// subsetsOf returns the subsets policy of a service: by its name, or that for all.
func subsetsOf(subsets map[string]*entry, service string) *entry {
	if e := subsets[service]; e != nil {
		return e
	}
	return subsets[AllServices]
}
