package registry

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// WithFallback returns a service's own policies, and of those that were generated (of
// Consul's configuration entries) what they leave room for:
//
//   - An own policy that names a service takes the place of the generated ones of its kind
//     for that service, whatever its methods; retry and hedging count as one kind. So does
//     one that has the name of a generated one. Own policies for all services ("*") do not:
//     a generated one names its service.
//   - What the rules of a generated route say of timeouts or retries gives way to an own
//     policy of that kind for the route's service.
//   - Several generated policies of one name are one where they say the same. Subsets are
//     put together; else that holds which was made for the policy's service, or the first.
//
// What is refused of a generated policy that is not taken is left out. None of what it is
// given is changed; nil means that a source has said nothing yet.
func WithFallback(own *Policies, generated ...*Policies) *Policies {
	if own == nil {
		own = &Policies{}
	}
	said := sayings(own.List)
	merged := &Policies{
		List: slices.Clone(own.List), Refused: slices.Clone(own.Refused), Where: own.Where,
		Places: maps.Clone(own.Places),
	}
	from := map[string]*Policies{}
	at := map[string]int{}
	for _, g := range generated {
		if g == nil {
			continue
		}
		for _, one := range g.List {
			name := one.GetName()
			if said.replace(one) {
				continue
			}
			if i, twice := at[name]; twice {
				first, next := merged.List[i], said.giveWay(one)
				if g.Of == one.GetService() && from[name].Of != g.Of {
					first, next, from[name] = next, first, g
				}
				merged.List[i] = united(first, next)
				continue
			}
			at[name], from[name] = len(merged.List), g
			merged.List = append(merged.List, said.giveWay(one))
		}
		for _, r := range g.Refused {
			if !said.replaceRefused(r) && !slices.Contains(merged.Refused, r) {
				merged.Refused = append(merged.Refused, r)
			}
		}
		for name, place := range g.Places {
			if from[name] == g {
				if merged.Places == nil {
					merged.Places = map[string]string{}
				}
				merged.Places[name] = place
			}
		}
	}
	merged.Locate = func(policy, field string) string {
		if g := from[policy]; g != nil {
			return g.Place(policy, field)
		}
		return own.Place(policy, field)
	}
	return merged
}

// saying is of which service, and in which field of Policy's kind, a policy says something.
type saying struct{ service, kind string }

// said are what there are own policies of.
type said struct {
	kinds map[saying]bool
	names map[string]bool
}

func sayings(list []*configv1.Policy) said {
	s := said{map[saying]bool{}, map[string]bool{}}
	for _, p := range list {
		s.names[p.GetName()] = true
		if !p.GetInbound() {
			s.kinds[saying{p.GetService(), kindOf(p)}] = true
		}
	}
	return s
}

// kindOf is the name of a policy's kind in the schema.
func kindOf(p *configv1.Policy) string {
	m := p.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if field == nil {
		return ""
	}
	if kind := string(field.Name()); kind != "hedging" {
		return kind
	}
	return "retry"
}

// replace says whether own policies take a generated one's place.
func (s said) replace(p *configv1.Policy) bool {
	return s.names[p.GetName()] || s.kinds[saying{p.GetService(), kindOf(p)}]
}

// replaceRefused is replace for what is refused, whose kind its name ends in.
func (s said) replaceRefused(r RefusedPolicy) bool {
	if s.names[r.Policy] {
		return true
	}
	for own := range s.kinds {
		if own.service == r.Service && own.kind != "" && len(r.Policy) > len(own.kind) && r.Policy[len(r.Policy)-len(own.kind)-1:] == "."+own.kind {
			return true
		}
	}
	return false
}

// giveWay takes what own policies say out of a generated route's rules.
func (s said) giveWay(p *configv1.Policy) *configv1.Policy {
	times, again := s.kinds[saying{p.GetService(), "timeout"}], s.kinds[saying{p.GetService(), "retry"}]
	if p.GetRoute() == nil || !times && !again {
		return p
	}
	p = proto.CloneOf(p)
	for _, rule := range p.GetRoute().GetRules() {
		if times {
			rule.Timeout, rule.Timeouts = nil, nil
		}
		if again {
			rule.Retry = nil
		}
	}
	return p
}

// united is what two generated policies of one name say together.
func united(first, next *configv1.Policy) *configv1.Policy {
	if first.GetSubsets() == nil || next.GetSubsets() == nil || proto.Equal(first, next) {
		return first
	}
	both := proto.CloneOf(first)
	subsets := both.GetSubsets()
	for name, subset := range next.GetSubsets().GetSubsets() {
		if known := subsets.GetSubsets()[name]; known == nil {
			subsets.Subsets[name] = subset
		} else if len(known.GetFailover()) == 0 && len(subset.GetFailover()) > 0 {
			subsets.Subsets[name] = subset
		}
	}
	if subsets.Default == "" {
		subsets.Default = next.GetSubsets().GetDefault()
	}
	return both
}
