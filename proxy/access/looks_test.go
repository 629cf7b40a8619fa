package access

import (
	"testing"

	"github.com/pillion-proxy/pillion/registry"
)

// It is known before which decisions need an RPC's fields.
func TestLooks(t *testing.T) {
	t.Parallel()
	headers := registry.IntentionPermission{Allow: true, PathExact: place, Headers: []registry.IntentionHeader{{Name: "a", Present: true}}}
	for name, c := range map[string]struct {
		policy *Policy
		from   string
		path   string
		want   bool
	}{
		"nothing is said":              {New(nil, nil, env), web, list, false},
		"no rule looks":                {New(NewRules(policy(t, "p", "allow from=web")), nil, env), web, list, false},
		"a rule looks":                 {New(NewRules(policy(t, "p", "allow a~1")), nil, env), web, list, true},
		"a rule for more looks":        {New(NewRules(policy(t, "p", "allow methods=/shop.* a~1", "allow methods="+list)), nil, env), web, list, true},
		"a rule for others looks":      {New(NewRules(policy(t, "p", "allow from=billing a~1")), nil, env), web, list, false},
		"a rule elsewhere looks":       {New(NewRules(policy(t, "p", "allow a~1 methods="+place)), nil, env), web, list, false},
		"what is in audit looks":       {New(NewRules(policy(t, "p", "deny/audit a~1")), nil, env), web, list, false},
		"an intention looks":           {New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{from("web", true, headers)}}, env), consulWeb, place, true},
		"no intention looks":           {New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{from("web", true)}}, env), consulWeb, place, false},
		"an intention of others looks": {New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{from("web", true, headers)}}, env), consulAPI, place, false},
	} {
		if got := c.policy.ForID(id(c.from)).Looks(c.path); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
