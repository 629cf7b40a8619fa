package policy

import "fmt"

// KindTrace says which policy of a kind an RPC obeys, and which lost.
type KindTrace struct {
	Kind Kind
	// Policy is the one in force; "": none.
	Policy string
	// Service and Methods are what it is for: a service's name or "*", and the
	// selector that is the most exact one; Methods is "" for what is of the service
	// as a whole.
	Service string
	Methods string
	// Lost are the others that were looked at.
	Lost []LostTrace
}

// LostTrace is a policy that an RPC does not obey.
type LostTrace struct {
	Policy string
	Why    string
}

// Explain says of each kind that policies of the service speak of, which one RPCs to
// the method at a path obey, where they are made or where they arrive. It looks at
// every policy, by another way than [Service.Outbound] and [Service.Inbound], and comes
// to the same.
func (v *Service) Explain(path string, inbound bool) []KindTrace {
	if v == nil {
		return nil
	}
	var traces []KindTrace
	for kind := range numKinds {
		if kind.slot() != kind || inbound && !kind.mayBeInbound() {
			continue
		}
		if kind.together() {
			traces = append(traces, v.explainTogether(kind, path, inbound)...)
			continue
		}
		if t, any := v.explainSlot(kind, path, inbound); any {
			traces = append(traces, t)
		}
	}
	return traces
}

// explainTogether returns all policies of a kind of which all hold, those left out that
// are for other methods.
func (v *Service) explainTogether(kind Kind, path string, inbound bool) (traces []KindTrace) {
	for _, e := range v.entries {
		if e.kind != kind || e.inbound != inbound {
			continue
		}
		t := KindTrace{Kind: kind, Policy: e.name(), Service: e.service()}
		if kind.ofMethods() {
			by, selects := e.selectedBy(path)
			if !selects {
				continue
			}
			t.Methods = by.String()
		}
		traces = append(traces, t)
	}
	return traces
}

// explainSlot looks at all policies of a slot. It is false where there are none.
func (v *Service) explainSlot(slot Kind, path string, inbound bool) (t KindTrace, any bool) {
	var best *entry
	var bestBy selector
	for _, e := range v.entries {
		if e.kind.slot() != slot || e.inbound != inbound {
			continue
		}
		any = true
		by, selects := e.selectedBy(path)
		// Those that name the service come first.
		if selects && (best == nil || by.compare(bestBy) > 0) {
			best, bestBy = e, by
		}
	}
	t.Kind = slot
	if best != nil {
		t.Kind, t.Policy, t.Service = best.kind, best.name(), best.service()
		if best.kind.ofMethods() {
			t.Methods = bestBy.String()
		}
	}
	for _, e := range v.entries {
		if e.kind.slot() == slot && e.inbound == inbound && e != best {
			t.Lost = append(t.Lost, LostTrace{Policy: e.name(), Why: e.whyLost(best, bestBy, path)})
		}
	}
	return t, any
}

// selectedBy returns the most exact selector of a policy for a path.
func (e *entry) selectedBy(path string) (by selector, selects bool) {
	if !e.kind.ofMethods() {
		return everything, true
	}
	for _, s := range e.selectors {
		if s.selects(path) && (!selects || s.compare(by) > 0) {
			by, selects = s, true
		}
	}
	return by, selects
}

// whyLost says why an RPC does not obey a policy.
func (e *entry) whyLost(best *entry, bestBy selector, path string) string {
	by, selects := e.selectedBy(path)
	switch {
	case !selects:
		return "it is for other methods"
	case by.compare(bestBy) != 0:
		return fmt.Sprintf("%q of policy %q is more exact than %q", bestBy, best.name(), by)
	}
	return fmt.Sprintf("policy %q names the service, and this one is for all", best.name())
}
