package policy

import (
	"strings"

	"github.com/pillion-proxy/pillion/proxy/access"
)

// access warns of what can never come to pass in an access policy, or is hardly meant.
func (w *warner) access(e *entry) {
	off := e.source.GetAccess().GetMode() == access.Off.String()
	for i := range e.access.Rules {
		rule, field := &e.access.Rules[i], at("access.rules", i)
		if off && rule.Mode != access.Off {
			w.addf(field+".mode", "is %s, and holds though the policy is off: take it out to have the policy's", rule.Mode)
		}
		for j, from := range rule.From {
			w.service(at(field+".from", j), from.Service())
		}
		methods := accessSelectors(rule)
		w.covered(field+".methods", methods)
		if rule.Metadata != nil {
			w.match(field+".metadata", &rule.Metadata.(*accessMetadata).match, methods)
		}
		if by := deniedBefore(e.access.Rules, rule); by != "" {
			w.addf(field, "allows nothing: rule %q denies all that it would", by)
		}
	}
}

// maxCompared is how many rules a policy may have for each to be compared with each.
const maxCompared = 1000

// deniedBefore returns the name of a rule that denies all that a rule allows; "": none
// does, as far as can be seen from what is written.
func deniedBefore(rules []access.Rule, rule *access.Rule) string {
	if !rule.Allow || rule.Mode == access.Off || len(rules) > maxCompared {
		return ""
	}
	for i := range rules {
		deny := &rules[i]
		if deny.Allow || deny.Mode != access.Enforce || deny.Metadata != nil || !coversFrom(deny.From, rule.From) {
			continue
		}
		all := true
		for _, s := range accessSelectors(rule) {
			all = all && coveredByAny(s, accessSelectors(deny))
		}
		if all {
			return deny.Name
		}
	}
	return ""
}

// accessSelectors returns the rule's methods: everything, where it names none.
func accessSelectors(rule *access.Rule) []selector {
	if len(rule.Methods) == 0 {
		return []selector{everything}
	}
	selectors := make([]selector, 0, len(rule.Methods))
	for _, s := range rule.Methods {
		selectors = append(selectors, selector{path: s.Path, exact: s.Exact})
	}
	return selectors
}

// coversFrom says whether all callers of the second list are among those of the first.
func coversFrom(all, some []access.From) bool {
	if len(all) == 0 {
		return true
	}
	if len(some) == 0 {
		return false
	}
	for _, from := range some {
		if !fromAmong(from.String(), all) {
			return false
		}
	}
	return true
}

// fromAmong says whether who is written so is, as can be seen from that alone, in a
// list.
func fromAmong(text string, list []access.From) bool {
	for _, from := range list {
		other := from.String()
		if other == text || other == "spiffe://*" || strings.HasPrefix(text, other+"/") && from.Service() == "" && !strings.Contains(strings.TrimPrefix(other, "spiffe://"), "/") {
			return true
		}
	}
	return false
}
