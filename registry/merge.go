package registry

import (
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// MergePolicies returns the policies of several sources as those of one. Of two that
// have one name, the later is refused. A source that is nil has said nothing yet.
func MergePolicies(where string, sources []*Policies) *Policies {
	merged := &Policies{Where: where, Places: make(map[string]string)}
	from := make(map[string]*Policies)
	for _, s := range sources {
		if s == nil {
			continue
		}
		merged.Refused = append(merged.Refused, s.Refused...)
		merged.Generated = append(merged.Generated, s.Generated...)
		for _, one := range s.List {
			if other := from[one.GetName()]; other != nil {
				merged.refuseSecond(s, one, other)
				continue
			}
			from[one.GetName()] = s
			merged.List = append(merged.List, one)
			if at, known := s.Places[one.GetName()]; known {
				merged.Places[one.GetName()] = at
			}
		}
	}
	merged.Locate = func(policy, field string) string { return from[policy].Place(policy, field) }
	return merged
}

func (p *Policies) refuseSecond(s *Policies, one *configv1.Policy, other *Policies) {
	p.Refused = append(p.Refused, RefusedPolicy{
		Policy:  one.GetName(),
		Problem: s.Place(one.GetName(), "name") + ": there is one of this name in " + other.Where + " already: give it another name",
	})
}

// Place says where a field of a policy is, as far as the source can tell. It may be
// called on nil.
func (p *Policies) Place(policy, field string) string {
	if p == nil || p.Locate == nil {
		return "policy " + policy + ": " + field
	}
	return p.Locate(policy, field)
}
