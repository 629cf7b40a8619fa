package access

import (
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Seen says what became of one rule, or of one intention, for an RPC.
type Seen struct {
	// Policy and Rule are its names. Policy is "" for an intention, and for what holds
	// where none is for the caller; Rule says which it is.
	Policy, Rule string
	// Allow and Mode are what it does; those of an intention say what it comes to.
	Allow bool
	Mode  Mode
	// Matched says whether it is for such an RPC.
	Matched bool
	// Why says why it does not match.
	Why string
}

// Explain says what [Caller.Decide] decides, and of every rule and intention that is
// not off whether it matches. It looks at them one by one, and comes to the same.
func (c *Caller) Explain(path string, fields []hpack.Field) (Decision, []Seen) {
	var seen []Seen
	odd := odd(path)
	if i := c.intention; i != nil {
		allowed := i.refuses(path, odd, fields) == nil
		seen = append(seen, Seen{Rule: i.refused.by, Allow: allowed, Matched: true})
	}
	for i := range c.policy.rules {
		r := &c.policy.rules[i]
		s := Seen{Policy: r.policy.Name, Rule: r.Name, Allow: r.Allow, Mode: r.Mode}
		s.Why = c.failing(r, path, odd, fields)
		s.Matched = s.Why == ""
		seen = append(seen, s)
	}
	return c.Decide(path, fields), seen
}

// failing says why a rule is not for an RPC; "": it is.
func (c *Caller) failing(r *compiledRule, path string, odd bool, fields []hpack.Field) string {
	if !c.isFrom(r) {
		if c.id.IsZero() {
			return "the caller has proven no identity"
		}
		return "it is for other callers"
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, Selector{}) {
		switch {
		case odd && !r.Allow:
			return ""
		case odd:
			return "the path is none that a method has"
		case !slices.ContainsFunc(r.Methods, func(s Selector) bool { return s.selects(path) }):
			return "it is for other methods"
		}
	}
	if r.Metadata != nil && !r.Metadata.Holds(fields, !r.Allow) {
		return r.Metadata.Why(fields)
	}
	return ""
}

// isFrom says whether a rule is for the caller.
func (c *Caller) isFrom(r *compiledRule) bool {
	if len(r.From) == 0 {
		return true
	}
	for _, from := range r.From {
		for _, pattern := range from.Patterns(c.policy.env.IDs) {
			if pattern.Matches(c.id) {
				return true
			}
		}
	}
	return false
}

// selects says whether the method at a path is in the set.
func (s Selector) selects(path string) bool {
	if s.Exact {
		return path == s.Path
	}
	return strings.HasPrefix(path, s.Path)
}
