package experiment

import (
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

const (
	// policyPrefix and an experiment's name are the name of its policy.
	policyPrefix = configyaml.GeneratedOfExperiments
	// order has experiments be looked at before canaries, whose order is 2000.
	order = 1000
	// all is the first 1/10,000 beyond all units.
	all = 10_000
	// What is hashed with units for parts that several experiments have in common.
	holdoutSeed     = "holdout"
	layerSeedPrefix = "layer/"
)

// PolicyName is the name of the policy that an experiment comes to.
func PolicyName(experiment string) string { return policyPrefix + experiment }

// experimentOf is the experiment that a policy comes from; false: it is none's.
func experimentOf(policy string) (string, bool) { return strings.CutPrefix(policy, policyPrefix) }

// Policy returns the policy that an experiment comes to.
func Policy(e *configv1.Experiment) *configv1.Policy {
	e = configyaml.EffectiveExperiment(e)
	split := &configv1.Split{
		Sticky:     &configv1.Sticky{Key: e.GetUnit(), Seed: e.GetSalt(), Forced: e.GetForced()},
		GroupKey:   e.GetGroupKey(),
		AllowForce: e.GetAllowForce(),
	}
	for _, v := range e.GetVariants() {
		split.Destinations = append(split.Destinations, &configv1.WeightedDestination{
			Weight: v.GetWeight(), Group: v.GetName(), Subset: v.GetSubset(), Request: v.GetRequest(),
		})
	}
	// The first range is there without a holdout too: RPCs that have no unit lie in none.
	ranges := []*configv1.KeyRange{{Key: e.GetUnit(), Seed: holdoutSeed, Start: e.GetHoldout(), End: all}}
	if l := e.GetLayer(); l != nil {
		ranges = append(ranges, &configv1.KeyRange{Key: e.GetUnit(), Seed: layerSeedPrefix + l.GetName(), Start: l.GetStart(), End: l.GetEnd()})
	}
	return &configv1.Policy{
		Name: PolicyName(e.GetName()), Service: e.GetService(), Methods: e.GetMethods(),
		Kind: &configv1.Policy_Split{Split: &configv1.SplitPolicy{Match: e.GetEligible(), Ranges: ranges, Split: split, Order: order}},
	}
}

// Problem says why an experiment cannot run beside others that do: they are in one layer
// and have units in common. "": it can. The defaults of all are filled in.
func Problem(e *configv1.Experiment, running []*configv1.Experiment) string {
	l := e.GetLayer()
	if l == nil {
		return ""
	}
	for _, other := range running {
		o := other.GetLayer()
		if other.GetName() == e.GetName() && other.GetService() == e.GetService() || o == nil || o.GetName() != l.GetName() || l.GetStart() >= o.GetEnd() || o.GetStart() >= l.GetEnd() {
			continue
		}
		return "the layer " + quoted(l.GetName()) + " has " + part(l) + " of its units in this experiment, but " + part(o) +
			" in " + quoted(other.GetName()) + ", which is running: choose another part (layer.start, layer.end), or stop that first"
	}
	return ""
}

// decode returns the experiment that a state has inside, checked and with its defaults
// filled in.
func decode(document []byte) (*configv1.Experiment, error) {
	e := &configv1.Experiment{}
	if err := unmarshal.Unmarshal(document, e); err != nil {
		return nil, err
	}
	e = configyaml.EffectiveExperiment(e)
	if err := configyaml.CheckExperiment(e); err != nil {
		return nil, err
	}
	return e, nil
}

// variantNumber is where a variant is in the document's order.
func variantNumber(e *configv1.Experiment, name string) int {
	return slices.IndexFunc(e.GetVariants(), func(v *configv1.Variant) bool { return v.GetName() == name })
}
