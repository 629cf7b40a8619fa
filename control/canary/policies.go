package canary

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// firstOrder is the order of the first canary's split policy: behind the experiments'.
const firstOrder = 2000

// maxPolicies bounds the split policies of a service's canaries, so that there is room for
// others. Those that ended first are left out.
const maxPolicies = 16

// Document returns the canary that a state runs, with its defaults, checked. States in the
// history have none.
func Document(s *controlv1.RunState) (*configv1.Canary, error) {
	var c configv1.Canary
	if err := proto.Unmarshal(s.GetDocument(), &c); err != nil {
		return nil, fmt.Errorf("its document cannot be read: %w", err)
	}
	effective := configyaml.EffectiveCanary(&c)
	if err := configyaml.CheckCanary(effective); err != nil {
		return nil, err
	}
	if c.GetName() != s.GetName() || c.GetService() != s.GetService() {
		return nil, fmt.Errorf("its document is about the canary %q of %q", c.GetName(), c.GetService())
	}
	return effective, nil
}

// held is a canary whose state says where RPCs go.
type held struct {
	state  *controlv1.RunState
	doc    *configv1.Canary
	weight uint32
}

// policiesOf returns the split policies of a service's canaries. One that runs comes
// first, then those that have ended, the last of them before the others: a canary that was
// promoted still holds for the RPCs that no later one is about.
func policiesOf(list []held) (policies []*configv1.Policy) {
	slices.SortFunc(list, func(a, b held) int {
		if x, y := Active(a.state.GetPhase()), Active(b.state.GetPhase()); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(b.state.GetSince().AsTime().Compare(a.state.GetSince().AsTime()), cmp.Compare(a.state.GetName(), b.state.GetName()))
	})
	for i, h := range list[:min(len(list), maxPolicies)] {
		policies = append(policies, policyOf(h, firstOrder+uint32(i)))
		if len(h.doc.GetMethods()) == 0 && h.doc.GetMatch() == nil {
			break // the ones behind it would get no RPC
		}
	}
	return policies
}

func policyOf(h held, order uint32) *configv1.Policy {
	p := Policy(h.doc, h.weight)
	p.GetSplit().Order = order
	return p
}

// Policy returns the split policy that a canary, whose defaults are filled in, comes to
// while it has a weight, in 1/10,000.
func Policy(c *configv1.Canary, weight uint32) *configv1.Policy {
	split := &configv1.Split{Destinations: []*configv1.WeightedDestination{
		{Group: StableGroup, Subset: c.GetStable(), Weight: all - weight},
		{Group: CanaryGroup, Subset: c.GetCanary(), Weight: weight},
	}}
	if key := c.GetSticky(); key != nil {
		split.Sticky = &configv1.Sticky{Key: key, Seed: c.GetName()}
	}
	return configyaml.EffectivePolicy(&configv1.Policy{
		Name: PolicyName(c.GetName()), Service: c.GetService(), Methods: c.GetMethods(),
		Kind: &configv1.Policy_Split{Split: &configv1.SplitPolicy{Match: c.GetMatch(), Split: split, Order: firstOrder}},
	})
}
