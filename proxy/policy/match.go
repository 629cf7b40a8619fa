package policy

import (
	"slices"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Match says which RPCs something is for. A nil one is for all.
type Match struct {
	methods    *table[selector] // nil: all
	selected   []selector       // what methods has
	conditions []condition      // on metadata, then on cookies
	cookies    int              // how many of those are on cookies
	callers    []string         // sorted; none: all
	fraction   uint32           // of shares
}

// part says which part of a match an RPC fails.
type part uint8

const (
	partNone part = iota
	partMethods
	partCallers
	partCondition
	partRange // of a split policy's
)

// failing returns the first part that an RPC fails, and which condition it is. Chance
// is not its business.
func (m *Match) failing(rpc *RPC) (failed part, condition int) {
	return m.failingBut(rpc, partNone, nil)
}

// failingBut is failing where one part is known to hold, and so are some values.
func (m *Match) failingBut(rpc *RPC, known part, v *values) (failed part, condition int) {
	if m == nil {
		return partNone, 0
	}
	if m.methods != nil && known != partMethods {
		if _, found := m.methods.find(rpc.Path); !found {
			return partMethods, 0
		}
	}
	if len(m.callers) > 0 && known != partCallers {
		if _, found := slices.BinarySearch(m.callers, rpc.Caller); !found {
			return partCallers, 0
		}
	}
	for i := range m.conditions {
		if !m.conditions[i].holds(rpc, v) {
			return partCondition, i
		}
	}
	return partNone, 0
}

// part is how many of so many RPCs the match is for, of those that fail nothing.
func (m *Match) part() uint32 {
	if m == nil {
		return shares
	}
	return m.fraction
}

// drawn says whether chance is with the RPC. The number is that of the match among
// all that are looked at in one decision.
func (m *Match) drawn(d *dice, number uint64) bool {
	n := m.part()
	return n >= shares || n > 0 && d.roll(number) < n
}

// matches says whether the match is for an RPC.
func (m *Match) matches(rpc *RPC, d *dice, number uint64) bool {
	if m == nil {
		return true
	}
	failed, _ := m.failingBut(rpc, partNone, &d.values)
	return failed == partNone && m.drawn(d, number)
}

// compileMatch compiles a match. The result is nil where it is for all RPCs.
func (p *problems) compileMatch(field string, m *configv1.RouteMatch) *Match {
	if m == nil {
		return nil
	}
	c := &Match{fraction: shares, cookies: len(m.GetCookies())}
	if len(m.GetMethods()) > 0 {
		selectors := p.compileSelectors(field+".methods", m.GetMethods())
		values := make(map[selector]selector, len(selectors))
		for _, s := range selectors {
			values[s] = s
		}
		if _, all := values[everything]; !all {
			c.methods, c.selected = newTable(values), selectors
		}
	}
	c.conditions = slices.Concat(
		p.compilePathRegex(field+".path_regex", m.GetPathRegex()),
		p.compileConditions(field+".metadata", m.GetMetadata(), false),
		p.compileConditions(field+".cookies", m.GetCookies(), true),
	)
	c.callers = slices.Compact(slices.Sorted(slices.Values(m.GetCallers())))
	if m.Fraction != nil {
		c.fraction = m.GetFraction()
	}
	return c
}

// compileSelectors reads selectors; none are all methods.
func (p *problems) compileSelectors(field string, texts []string) []selector {
	if len(texts) == 0 {
		return []selector{everything}
	}
	selectors := make([]selector, 0, len(texts))
	for i, text := range texts {
		s, err := parseSelector(text)
		if err != nil {
			p.addf(at(field, i), "%v", err)
			continue
		}
		if slices.Contains(selectors, s) {
			p.addf(at(field, i), "%q selects the same as another of the list: leave it out", text)
			continue
		}
		selectors = append(selectors, s)
	}
	return selectors
}
