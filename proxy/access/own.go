package access

import (
	"slices"
	"strings"
)

// OwnPrefix is what the paths of RPCs begin with that are for the sidecar itself and not for
// its app: those by which sidecars report on canaries and experiments. Of rules only those
// that name such methods hold for them, and for nothing else: rules of the app's do not have
// to know of sidecars.
const OwnPrefix = "/pillion.mesh.v1.Mesh/"

// RefusedOwn returns who refuses an RPC of the caller to the sidecar itself, as rules say;
// "": nobody does.
func (c *Caller) RefusedOwn(path string) string {
	if c.policy.own == nil {
		return ""
	}
	return c.policy.own.ForID(c.id).Decide(path, nil).By
}

// split takes the rules apart that are of the app's methods and of the sidecar's own.
func (r *Rules) split() (app, own *Rules) {
	names := func(s Selector) bool { return strings.HasPrefix(s.Path, OwnPrefix) }
	var apps, owns []*Written
	for _, policy := range r.Policies() {
		if !slices.ContainsFunc(policy.Rules, func(r Rule) bool { return slices.ContainsFunc(r.Methods, names) }) {
			apps = append(apps, policy)
			continue
		}
		ofApp, ofOwn := &Written{Name: policy.Name}, &Written{Name: policy.Name}
		for _, rule := range policy.Rules {
			one := rule
			one.Methods = slices.DeleteFunc(slices.Clone(rule.Methods), func(s Selector) bool { return !names(s) })
			if len(one.Methods) > 0 {
				ofOwn.Rules = append(ofOwn.Rules, one)
			}
			if len(one.Methods) < len(rule.Methods) || len(rule.Methods) == 0 {
				rule.Methods = slices.DeleteFunc(slices.Clone(rule.Methods), names)
				ofApp.Rules = append(ofApp.Rules, rule)
			}
		}
		apps, owns = append(apps, ofApp), append(owns, ofOwn)
	}
	return NewRules(apps...), NewRules(owns...)
}
