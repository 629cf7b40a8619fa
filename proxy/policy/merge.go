package policy

import (
	"cmp"
	"slices"
	"strings"
)

// slots are the policies that a method obeys, by their kinds' slots.
type slots [KindFault + 1]*entry

// merge makes the views of all services that policies name, out of entries of which
// no two are alike in what they are for.
func merge(entries []*entry, previous *Set) map[string]*Service {
	byService := map[string][]*entry{}
	for _, e := range entries {
		byService[e.service()] = append(byService[e.service()], e)
	}
	forAll := byService[AllServices]
	services := make(map[string]*Service, len(byService)+1)
	var all *Service
	if len(forAll) > 0 {
		all = mergeService(AllServices, forAll, nil, nil, previous)
		services[AllServices] = all
	}
	for name, named := range byService {
		if name != AllServices {
			services[name] = mergeService(name, named, forAll, all, previous)
		}
	}
	return services
}

// mergeService makes the view of one service. all is the view of those that no policy
// names: sides of which nothing is said by name are the same there, and shared.
func mergeService(name string, named, forAll []*entry, all *Service, previous *Set) *Service {
	v := &Service{name: name, entries: slices.Concat(named, forAll)}
	for _, inbound := range []bool{false, true} {
		side := &v.outbound
		if inbound {
			side = &v.inbound
		}
		if all != nil && !slices.ContainsFunc(named, func(e *entry) bool { return e.merges(inbound) }) {
			*side = all.outbound
			if inbound {
				*side = all.inbound
			}
			continue
		}
		*side = mergeMethods(v.entries, inbound)
	}
	v.splits = mergeSplits(v.entries)
	v.parts = mergeParts(v.entries)
	if before := previous.Service(name); before != nil && before.parts == v.parts && before.kept == nil {
		v.cluster = before.cluster
	} else {
		v.cluster = v.parts.policy()
	}
	return v
}

// mergeParts gathers what is said of the service as a whole. The entries that come
// first go before others.
func mergeParts(entries []*entry) (parts clusterParts) {
	for _, e := range entries {
		parts.subsets = cmp.Or(parts.subsets, e.cluster.subsets)
		parts.balancing = cmp.Or(parts.balancing, e.cluster.balancing)
		parts.ejection = cmp.Or(parts.ejection, e.cluster.ejection)
		parts.health = cmp.Or(parts.health, e.cluster.health)
	}
	// Instances' own breakers are part of the policy for all methods, whether or not
	// that one has any.
	all := slices.IndexFunc(entries, func(e *entry) bool {
		return e.kind == KindCircuitBreaker && !e.inbound && slices.Contains(e.selectors, everything)
	})
	if all >= 0 {
		parts.breaker = entries[all].cluster.breaker
	}
	return parts
}

// merges says whether an entry is one of those of a side of which an RPC obeys one.
func (e *entry) merges(inbound bool) bool {
	return e.kind.ofMethods() && !e.kind.together() && e.inbound == inbound
}

// mergeMethods merges the policies of one side for each of their selectors. The
// entries that come first go before equally exact ones. nil where there is none.
func mergeMethods(entries []*entry, inbound bool) *table[*Method] {
	own := map[selector]*slots{}
	for _, e := range entries {
		if !e.merges(inbound) {
			continue
		}
		for _, s := range e.selectors {
			if own[s] == nil {
				own[s] = &slots{}
			}
			if slot := &own[s][e.kind.slot()]; *slot == nil {
				*slot = e
			}
		}
	}
	if len(own) == 0 {
		return nil
	}
	// Prefixes come before what begins with them, so what they inherit is complete.
	inOrder := make([]selector, 0, len(own))
	for s := range own {
		inOrder = append(inOrder, s)
	}
	slices.SortFunc(inOrder, func(a, b selector) int {
		if c := strings.Compare(a.path, b.path); c != 0 {
			return c
		}
		return a.compare(b)
	})
	methods := make(map[selector]*Method, len(own))
	var open []selector // prefixes that the ones to come may begin with
	for _, s := range inOrder {
		for len(open) > 0 && !open[len(open)-1].covers(s) {
			open = open[:len(open)-1]
		}
		merged := own[s]
		if len(open) > 0 {
			for i, inherited := range own[open[len(open)-1]] {
				if merged[i] == nil {
					merged[i] = inherited
				}
			}
		}
		m := methodOf(merged)
		if s.exact && m.Route != nil {
			lists := m.Route.index.forPath(s.path)
			m.lists = &lists
		}
		methods[s] = m
		if !s.exact {
			open = append(open, s)
		}
	}
	return newTable(methods)
}
