package policy

import (
	"fmt"
	"maps"
	"slices"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
)

// Warning says that something in a policy is in force, but is hardly meant so.
type Warning struct {
	// Policy, Field and Message are as in [Refusal].
	Policy, Field, Message string
}

// String writes the warning on one line.
func (w Warning) String() string {
	return Refusal{Policy: w.Policy, Field: w.Field, Message: w.Message}.Error()
}

// Warnings says what of policies can never come to pass, and which services and subsets
// they name that nobody knows. Policies that would be refused are left out. known are
// the services that there are; nil: that is not known.
func Warnings(policies []*configv1.Policy, known []string) []Warning {
	set, _ := Compile(policies, nil, Env{})
	w := &warner{subsets: map[string]*entry{}}
	if known != nil {
		w.known = make(map[string]bool, len(known))
		for _, name := range known {
			w.known[name] = true
		}
	}
	for _, e := range set.entries {
		if e.kind == KindSubsets {
			w.subsets[e.service()] = e
		}
	}
	for _, e := range set.entries {
		w.policy = e.name()
		w.look(e)
	}
	return w.list
}

type warner struct {
	known   map[string]bool // nil: that is not known
	subsets map[string]*entry
	policy  string
	list    []Warning
}

func (w *warner) addf(field, format string, args ...any) {
	w.list = append(w.list, Warning{Policy: w.policy, Field: field, Message: fmt.Sprintf(format, args...)})
}

func (w *warner) look(e *entry) {
	w.service("service", e.service())
	w.covered("methods", e.selectors)
	for _, use := range subsetUses(e.source) {
		if use.service != AllServices && subsetsOf(w.subsets, use.service) == nil {
			w.addf(use.field, "no policy says what the subset %q of service %q is", use.subset, use.service)
		}
	}
	switch e.kind {
	case KindRoute:
		w.route(e)
	case KindRateLimit:
		for i := range e.rateLimit.limits {
			w.match(at("rate_limit.limits", i)+".match", e.rateLimit.limits[i].match, e.selectors)
		}
	case KindFault:
		w.match("fault.match", e.fault.match, e.selectors)
	case KindAccess:
		w.access(e)
	case KindSplit:
		w.match("split.match", e.split.match, e.selectors)
		w.split("split.split", e.source.GetSplit().GetSplit())
	case KindSubsets:
		w.emptySubsets(e.source.GetSubsets())
	case KindLoadBalancing:
		w.balancing(e.source.GetLoadBalancing())
	}
}

// service warns of a service that nobody knows.
func (w *warner) service(field, name string) {
	if w.known != nil && name != "" && name != AllServices && !w.known[name] {
		w.addf(field, "no service %q is known", name)
	}
}

// covered warns of selectors that another of the list makes needless.
func (w *warner) covered(field string, selectors []selector) {
	for i, s := range selectors {
		for _, other := range selectors {
			if other != s && other.covers(s) {
				w.addf(at(field, i), "%q is part of %q, which is there too", s, other)
				break
			}
		}
	}
}

// match warns of a match that is for no RPC, or has methods that are not the policy's.
// It says whether it is for some.
func (w *warner) match(field string, m *Match, policy []selector) bool {
	if reason := m.never(policy); reason != "" {
		w.addf(field, "can never match: it %s", reason)
		return false
	}
	for _, s := range m.selectors() {
		if !overlapsAny(s, policy) {
			w.addf(field+".methods", "%q is no method that the policy is for", s)
		}
	}
	return true
}

func (w *warner) route(e *entry) {
	rules := e.route.rules
	for i := range rules {
		field := at("route.rules", i)
		source := e.source.GetRoute().GetRules()[i]
		w.service(field+".to.service", source.GetTo().GetService())
		w.service(field+".mirror.to.service", source.GetMirror().GetTo().GetService())
		w.split(field+".split", source.GetSplit())
		if !w.match(field+".match", rules[i].match, e.selectors) {
			continue
		}
		for j := range i {
			if rules[j].match.covers(rules[i].match, e.selectors) {
				w.addf(field, "can never match: rule %q comes before it and matches all that it would", rules[j].Name)
				break
			}
		}
	}
}

func (w *warner) split(field string, m *configv1.Split) {
	for i, d := range m.GetDestinations() {
		w.service(at(field+".destinations", i)+".service", d.GetService())
		if d.GetWeight() == shares && len(m.GetDestinations()) > 1 && !m.GetAllowForce() {
			w.addf(at(field+".destinations", i)+".weight", "all RPCs go to %q, and none to the others", groupName(d))
		}
	}
}

func (w *warner) emptySubsets(m *configv1.SubsetsPolicy) {
	for _, name := range slices.Sorted(maps.Keys(m.GetSubsets())) {
		if s := m.GetSubsets()[name]; len(s.GetMeta()) == 0 && len(s.GetTags()) == 0 {
			w.addf(of("subsets.subsets", name), "asks for no meta and no tags, so it is all instances")
		}
	}
}

func (w *warner) balancing(m *configv1.LoadBalancingPolicy) {
	if way, _ := balance.ParsePolicy(m.GetPolicy()); m.GetHash() != nil && way != balance.ByDefault && !way.Hashes() {
		w.addf("load_balancing.hash", "is not looked at by %s: it is for ring_hash and maglev", m.GetPolicy())
	}
	for i, d := range m.GetFailover() {
		w.service(at("load_balancing.failover", i)+".service", d.GetService())
	}
}
