package policy

import (
	"fmt"
	"slices"
	"strings"
)

// never says why a match of a policy with those selectors is for no RPC; "": it may be
// for some.
func (m *Match) never(policy []selector) string {
	if m == nil {
		return ""
	}
	if m.fraction == 0 {
		return "is for 0/10000 of the RPCs"
	}
	if m.methods != nil && !slices.ContainsFunc(m.selectors(), func(s selector) bool { return overlapsAny(s, policy) }) {
		return "is for methods that the policy is not for"
	}
	for i := range m.conditions {
		for j := range i {
			if m.conditions[i].contradicts(&m.conditions[j]) || m.conditions[j].contradicts(&m.conditions[i]) {
				return fmt.Sprintf("asks for %s and for %s, which no RPC has", m.conditions[j].wanted(), m.conditions[i].wanted())
			}
		}
	}
	return ""
}

// selectors returns the match's methods; none: all.
func (m *Match) selectors() []selector {
	if m == nil {
		return nil
	}
	return m.selected
}

func overlapsAny(s selector, others []selector) bool {
	return slices.ContainsFunc(others, s.overlaps)
}

func coveredByAny(s selector, others []selector) bool {
	return slices.ContainsFunc(others, func(o selector) bool { return o.covers(s) })
}

// covers says whether each RPC that the other match is for is one of this match's, as
// far as that can be seen from what is written.
func (m *Match) covers(other *Match, policy []selector) bool {
	if m == nil {
		return true
	}
	if m.fraction < shares || !m.coversMethods(other, policy) || !m.coversCallers(other) {
		return false
	}
	for i := range m.conditions {
		if !other.implies(&m.conditions[i]) {
			return false
		}
	}
	return true
}

func (m *Match) coversMethods(other *Match, policy []selector) bool {
	if m.methods == nil {
		return true
	}
	own, theirs := m.selectors(), other.selectors()
	if len(theirs) == 0 {
		theirs = []selector{everything}
	}
	for _, s := range theirs {
		for _, p := range policy {
			both := s // of two that overlap one is part of the other
			if s.covers(p) {
				both = p
			}
			if s.overlaps(p) && !coveredByAny(both, own) {
				return false
			}
		}
	}
	return true
}

func (m *Match) coversCallers(other *Match) bool {
	if len(m.callers) == 0 {
		return true
	}
	if other == nil || len(other.callers) == 0 {
		return false
	}
	return !slices.ContainsFunc(other.callers, func(caller string) bool { return !slices.Contains(m.callers, caller) })
}

// implies says whether the condition holds for each RPC that the match is for.
func (m *Match) implies(c *condition) bool {
	if m == nil {
		return false
	}
	return slices.ContainsFunc(m.conditions, func(own condition) bool { return own.implies(c) })
}

// implies says whether the other condition holds wherever this one does.
func (c *condition) implies(other *condition) bool {
	switch {
	case c.cookie != other.cookie || c.key != other.key:
		return false
	case c.same(other):
		return true
	case c.test == testPresent && !c.present: // no value: all that is turned around holds
		return other.invert
	case c.invert:
		return false
	case other.test == testPresent:
		return other.present && c.test != testPresent
	case c.binary: // one of several values says nothing of the others
		return false
	case c.test == testExact:
		return other.metBy(c.text, true) != other.invert
	case other.invert:
		return false
	case c.test == testPrefix && other.test == testPrefix:
		return strings.HasPrefix(c.text, other.text)
	case c.test == testSuffix && other.test == testSuffix:
		return strings.HasSuffix(c.text, other.text)
	case c.test == testRange && other.test == testRange:
		return c.start >= other.start && c.end <= other.end
	}
	return false
}

// contradicts says whether the other condition cannot hold where this one does.
func (c *condition) contradicts(other *condition) bool {
	switch {
	case c.cookie != other.cookie || c.key != other.key:
		return false
	case c.test == testPresent && !c.present:
		return !other.invert && !(other.test == testPresent && !other.present)
	case c.invert:
		return other.invert == false && c.opposite(other)
	case c.binary:
		return false
	case c.test == testExact:
		return other.metBy(c.text, true) == other.invert
	case other.invert || c.test == testPresent || other.test == testPresent:
		return false
	case c.test == testPrefix && other.test == testPrefix:
		return !strings.HasPrefix(c.text, other.text) && !strings.HasPrefix(other.text, c.text)
	case c.test == testSuffix && other.test == testSuffix:
		return !strings.HasSuffix(c.text, other.text) && !strings.HasSuffix(other.text, c.text)
	case c.test == testRange && other.test == testRange:
		return c.end <= other.start || other.end <= c.start
	}
	return false
}

// opposite says whether two conditions are the same but for being turned around.
func (c *condition) opposite(other *condition) bool {
	turned := *other
	turned.invert = !other.invert
	return c.same(&turned)
}

func (c *condition) same(other *condition) bool {
	a, b := *c, *other
	a.regex, b.regex = nil, nil // told by the text
	a.isBytes, b.isBytes = false, false
	return a == b
}

// wanted writes the condition as people would.
func (c *condition) wanted() string {
	if c.invert {
		return "no " + c.describe()
	}
	return c.describe()
}
