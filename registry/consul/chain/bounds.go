package chain

import (
	"fmt"
	"regexp"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The bounds of the schema, as far as what Consul says may be beyond them. They are looked
// at here, and not by the schema's own rules, because those take longer to make than all
// the rest of a chain: it is the fuzz target that looks at both.
const (
	maxService = 253
	maxSubset  = 128
	maxSubsets = 256
	maxChanges = 64
	maxKey     = 255
)

// names is how services and subsets may be called.
var names = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)

// nameProblem says why a target cannot be called by its name; "": it can.
func nameProblem(service, subset string) string {
	switch {
	case len(service) > maxService || !names.MatchString(service):
		return fmt.Sprintf("%.300q is no service's name here", service)
	case subset != "" && (len(subset) > maxSubset || !names.MatchString(subset) || subset == "none" || subset == "any"):
		return fmt.Sprintf("%.150q is no subset's name here", subset)
	}
	return ""
}

// misfit says why a policy is beyond what the schema allows; "": it is not.
func misfit(p *configv1.Policy) string {
	if problem := nameProblem(p.GetService(), ""); problem != "" {
		return problem
	}
	if n := len(p.GetSubsets().GetSubsets()); n > maxSubsets {
		return fmt.Sprintf("there are %d subsets, and there may be %d at most", n, maxSubsets)
	}
	for _, rule := range p.GetRoute().GetRules() {
		changes := []*configv1.MetadataChange{rule.GetRequest(), rule.GetResponse()}
		for _, d := range rule.GetSplit().GetDestinations() {
			changes = append(changes, d.GetRequest())
		}
		for _, c := range changes {
			if problem := changeProblem(c); problem != "" {
				return fmt.Sprintf("rule %q: %s", rule.GetName(), problem)
			}
		}
	}
	return ""
}

func changeProblem(c *configv1.MetadataChange) string {
	if len(c.GetSet()) > maxChanges || len(c.GetAdd()) > maxChanges || len(c.GetRemove()) > maxChanges {
		return fmt.Sprintf("more than %d headers are changed", maxChanges)
	}
	for _, values := range []map[string]string{c.GetSet(), c.GetAdd()} {
		for key, value := range values {
			if len(value) > maxValue {
				return fmt.Sprintf("header %.100q is given more than %d bytes", key, maxValue)
			}
		}
	}
	return ""
}
