package access

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/registry"
)

// It is known of whom no RPC is let through.
func TestHopeless(t *testing.T) {
	t.Parallel()
	rules := func(rules ...string) *Policy { return New(NewRules(policy(t, "p", rules...)), nil, env) }
	intentions := func(one ...registry.Intention) *Policy {
		return New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: one}, env)
	}
	some := registry.IntentionPermission{Allow: true, PathExact: place}
	none := registry.IntentionPermission{Allow: false, PathExact: place}
	const byPolicy = `access policy "p"`
	for name, c := range map[string]struct {
		policy *Policy
		from   string
		want   string
	}{
		"nothing is said":                  {New(nil, nil, env), web, ""},
		"all is allowed to it":             {rules("allow from=web"), web, ""},
		"something is allowed to it":       {rules("allow from=web a~1 methods=" + list), web, ""},
		"something is allowed to everyone": {rules("allow methods=" + list), web, ""},
		"only others are allowed":          {rules("allow from=billing"), web, byPolicy},
		"what is allowed is in audit":      {rules("allow from=billing", "allow/audit from=web"), web, byPolicy},
		"others are allowed in audit":      {rules("allow/audit from=billing"), web, ""},
		"all is denied":                    {rules("deny from=web"), web, byPolicy},
		"all is denied to everyone":        {rules("allow from=web", "deny"), web, byPolicy},
		"all is denied in audit":           {rules("deny/audit from=web"), web, ""},
		"some is denied":                   {rules("deny from=web methods=" + list), web, ""},
		"denied under conditions":          {rules("deny from=web a~1"), web, ""},
		"an intention denies":              {intentions(from("web", false)), consulWeb, `intention "web" to "orders"`},
		"an intention allows":              {intentions(from("web", true)), consulWeb, ""},
		"an intention allows something":    {intentions(from("web", false, some)), consulWeb, ""},
		"an intention allows nothing":      {intentions(from("web", false, none)), consulWeb, `intention "web" to "orders"`},
		"no intention is for it":           {intentions(from("api", true)), consulWeb, "the default of Consul's intentions"},
	} {
		if got := c.policy.ForID(id(c.from)).Hopeless(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// No RPC is let through of those of whom that is said.
func TestHopelessIsRight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		texts := rapid.SliceOfN(rapid.SampledFrom([]string{
			"allow from=web", "deny from=web", "allow", "deny methods=" + list, "allow from=billing", "allow/audit", "deny/audit",
			"allow from=web a~1", "deny a~1", "allow methods=" + place, "deny from=billing", "deny",
		}), 1, 4).Draw(rt, "rules")
		p := New(NewRules(policy(t, "p", texts...)), nil, env)
		for _, from := range []string{web, consulWeb} {
			c := p.ForID(id(from))
			if c.Hopeless() == "" {
				continue
			}
			for _, path := range []string{list, place, "/other.A/B"} {
				for _, fields := range [][]string{nil, {"a", "1"}} {
					if c.Decide(path, request(path, fields...)).Allowed {
						rt.Fatalf("%s may call %s with %q", from, path, fields)
					}
				}
			}
		}
	})
}
