package file

import (
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// policies remembers the policies that hold, by name.
type policies struct{ inForce map[string]*configv1.Policy }

// take returns what is to hold: the good ones, and for each one that is wrong its
// last version that was not.
func (p *policies) take(path string, data []byte, good []*configv1.Policy, refused []configyaml.PolicyProblems) *registry.Policies {
	now := &registry.Policies{Where: path}
	next := make(map[string]*configv1.Policy, len(good))
	place := make(map[string]int, len(good))
	wrong := make(map[int]bool, len(refused))
	for _, r := range refused {
		wrong[r.Index] = true
	}
	at := 0
	for _, policy := range good {
		for wrong[at] {
			at++
		}
		next[policy.GetName()], place[policy.GetName()] = policy, at
		at++
	}
	now.List = append(now.List, good...)
	for _, r := range refused {
		for _, problem := range r.Problems {
			now.Refused = append(now.Refused, registry.RefusedPolicy{Policy: r.Name, Problem: problem.Error(), Service: r.Service, Access: r.Access})
		}
		if last := p.inForce[r.Name]; last != nil && next[r.Name] == nil {
			next[r.Name], place[r.Name] = last, r.Index
			now.List = append(now.List, last)
		}
	}
	p.inForce = next
	now.Places = make(map[string]string, len(place))
	in := configyaml.NewLocator(path, data)
	places := in.Places()
	for name, i := range place {
		if i < len(places) {
			now.Places[name] = places[i]
		}
	}
	now.Locate = func(policy, field string) string {
		return in.Policy(place[policy], field)
	}
	return now
}
