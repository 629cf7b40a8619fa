package policy

import (
	"maps"
	"reflect"

	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// keepSubsets has the subsets stay that a kept policy names and nobody says any more
// what they are: without them it would have its RPCs fail, and so nothing would have
// been kept. They stay for as long as it does.
func (c *compilation) keepSubsets() {
	if len(c.kept) == 0 {
		return
	}
	wanted := map[string][]string{} // by service
	for _, e := range c.set.entries {
		if !c.kept[e] {
			continue
		}
		for _, use := range subsetUses(e.source) {
			if use.service != AllServices {
				wanted[use.service] = append(wanted[use.service], use.subset)
				continue
			}
			for service := range c.set.services {
				wanted[service] = append(wanted[service], use.subset)
			}
		}
	}
	for service, names := range wanted {
		c.keepSubsetsOf(service, names)
	}
}

func (c *compilation) keepSubsetsOf(service string, names []string) {
	before := c.previous.Service(service).Cluster()
	if before == nil {
		return
	}
	v := c.set.services[service]
	if v == nil {
		v = c.serviceWithout(service)
	}
	kept := map[string]upstream.Subset{}
	for _, name := range names {
		v.keepSubset(kept, before, name)
	}
	if len(kept) == 0 {
		return
	}
	c.set.services[service] = v
	v.kept = kept
	if old := c.previous.Service(service); old.parts == v.parts && reflect.DeepEqual(old.kept, kept) {
		v.cluster = old.cluster
		return
	}
	p := v.parts.policy()
	if p == nil {
		p = noParts()
	}
	p.Subsets = maps.Clone(p.Subsets)
	if p.Subsets == nil {
		p.Subsets = kept
	} else {
		maps.Copy(p.Subsets, kept)
	}
	v.cluster = p
}

// serviceWithout makes the view of a service that no policy in force is for, but one
// for all may be.
func (c *compilation) serviceWithout(service string) *Service {
	all := c.set.services[AllServices]
	if all == nil {
		return &Service{name: service}
	}
	v := *all // by its name too: nobody means this service alone
	return &v
}

// keepSubset adds a subset that is said no more, and those that it falls back on.
func (v *Service) keepSubset(kept map[string]upstream.Subset, before *upstream.Policy, name string) {
	for {
		if _, known := kept[name]; known {
			return
		}
		if s := v.parts.subsets; s != nil {
			if _, said := s.byName[name]; said {
				return
			}
		}
		subset, known := before.Subsets[name]
		if !known {
			return
		}
		kept[name] = subset
		name = subset.Fallback
	}
}
