package policy

import (
	"maps"
	"slices"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// checkSubsetsPolicy checks what the subsets of a service say of each other.
func (p *problems) checkSubsetsPolicy(m *configv1.SubsetsPolicy) {
	subsets := m.GetSubsets()
	for _, name := range slices.Sorted(maps.Keys(subsets)) {
		field := of("subsets.subsets", name)
		if name == upstream.FallbackNone || name == upstream.FallbackAny {
			p.addf(field, "%q means something else as a fallback: choose another name", name)
		}
		for i, d := range subsets[name].GetFailover() {
			if d.GetService() == "" && d.GetSubset() == "" {
				p.addf(at(field+".failover", i), "names neither a service nor a subset")
			}
		}
		fallback := subsets[name].GetFallback()
		if fallback == upstream.FallbackNone || fallback == upstream.FallbackAny || fallback == "" {
			continue
		}
		if subsets[fallback] == nil {
			p.addf(field+".fallback", "%q is none of the policy's subsets, nor %q or %q", fallback, upstream.FallbackNone, upstream.FallbackAny)
		} else if comesBack(subsets, name) {
			p.addf(field+".fallback", "%q falls back on %q in the end: have one of them end in %q or %q", name, name, upstream.FallbackNone, upstream.FallbackAny)
		}
	}
	if m.GetDefault() != "" && subsets[m.GetDefault()] == nil {
		p.addf("subsets.default", "%q is none of the policy's subsets", m.GetDefault())
	}
}

// comesBack says whether following fallbacks from a subset leads to it again.
func comesBack(subsets map[string]*configv1.Subset, name string) bool {
	at := subsets[name].GetFallback()
	for range subsets {
		if at == name {
			return true
		}
		if subsets[at] == nil {
			return false
		}
		at = subsets[at].GetFallback()
	}
	return false
}
