package documents

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// generatedFor returns the document that a policy was generated of; false: of none.
func generatedFor(policy string) (ID, bool) {
	if name, ok := strings.CutPrefix(policy, configyaml.GeneratedOfCanaries); ok {
		return ID{control.Canary, name}, true
	}
	if name, ok := strings.CutPrefix(policy, configyaml.GeneratedOfExperiments); ok {
		return ID{control.Experiment, name}, true
	}
	return ID{control.Policy, policy}, false
}

// writtenAs are the fields of documents that fields of generated policies come from, by
// their beginnings; the first that fits holds.
var writtenAs = map[control.Kind][]struct{ of, from string }{
	control.Canary: {
		{"split.match", "match"}, {"split.split.sticky", "sticky"},
		{"split.split.destinations[0].subset", "stable"}, {"split.split.destinations[1].subset", "canary"},
	},
	control.Experiment: {
		{"split.match", "eligible"}, {"split.split.sticky.forced", "forced"}, {"split.split.sticky", "unit"},
		{"split.ranges[0]", "unit"}, {"split.ranges[1]", "layer"},
		{"split.split.destinations", "variants"}, {"split.split.group_key", "group_key"},
	},
}

// fieldOf returns the field of a document that a field of its policy comes from.
func fieldOf(kind control.Kind, field string) string {
	for _, f := range writtenAs[kind] {
		if rest, ok := strings.CutPrefix(field, f.of); ok {
			if f.from == "sticky" || f.from == "unit" {
				rest = strings.TrimPrefix(rest, ".key")
			}
			return f.from + rest
		}
	}
	return strings.TrimPrefix(field, "split.")
}

// subsetsBy are the subsets policies of services, by service.
type subsetsBy map[string]*configv1.Policy

func (s subsetsBy) of(service string) *configv1.Policy {
	if p := s[service]; p != nil {
		return p
	}
	return s[policy.AllServices]
}

// missing says which subsets a canary or an experiment names that there are not. A route
// to such a subset is only warned of, since its subsets may be told of later; but what is
// compared must be there.
func (s subsetsBy) missing(d *controlv1.Document, elsewhere bool) (found []Refusal) {
	id, service := IDOf(d)
	look := func(field, subset string) {
		p := s.of(service)
		has := p.GetSubsets().GetSubsets()
		switch {
		case subset == "" || has[subset] != nil || p == nil && elsewhere:
		case p == nil:
			found = append(found, Refusal{ID: id, Field: field, undefined: true, service: service, subset: subset, Message: fmt.Sprintf(
				"no policy says what the subset %q of service %q is: apply a subsets policy with it (or say --subsets-elsewhere, where Consul or mesh files define it)", subset, service)})
		case !elsewhere:
			found = append(found, Refusal{ID: id, Field: field, Message: fmt.Sprintf(
				"service %q has no subset %q: policy %q has %s", service, subset, p.GetName(), strings.Join(slices.Sorted(maps.Keys(has)), ", "))})
		}
	}
	if c := d.GetCanary(); c != nil {
		look("stable", c.GetStable())
		look("canary", c.GetCanary())
	}
	for i, v := range d.GetExperiment().GetVariants() {
		look(fmt.Sprintf("variants[%d].subset", i), v.GetSubset())
	}
	return found
}
