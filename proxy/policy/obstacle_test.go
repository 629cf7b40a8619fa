package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestWhatKeepsSplitPoliciesFromDeciding(t *testing.T) {
	t.Parallel()
	const versions = "- {name: v, service: greeter, subsets: {subsets: {v1: {meta: {v: a}}, v2: {meta: {v: b}}}}}\n"
	for _, c := range []struct {
		route string
		at    string // the rule that is told; "": they decide
	}{
		{"", ""},
		{"{to: {}}", ""},
		{"{to: {service: greeter}}", ""},
		{"{to: {subset: v1}}", "1"},
		{"{to: {subset: v1}, yields: true}", ""},
		{"{to: {service: other}}", "1"},
		{"{status: {code: ABORTED}}", "1"},
		{"{split: {destinations: [{weight: 4000, subset: v1}, {weight: 6000, service: other}]}}", "1"},
		{"{split: {destinations: [{weight: 4000, subset: v1}, {weight: 6000, group: g}]}}", ""},
		{"{split: {destinations: [{weight: 10000, subset: v1}, {weight: 0, group: g}]}}", "1"},
		{"{yields: true, split: {destinations: [{weight: 4000, subset: v1}, {weight: 6000, subset: v2}]}}", ""},
		// What no rule takes is left to them.
		{"{match: {metadata: [{key: x, present: true}]}, to: {subset: v1}}", ""},
		{"{match: {fraction: 5000}, to: {subset: v1}}", ""},
		{"{match: {metadata: [{key: x, present: true}]}, to: {subset: v1}}, {name: rest, to: {subset: v2}}", "rest"},
		{"{match: {metadata: [{key: x, present: true}]}, to: {}}, {to: {subset: v2}}", ""},
		// A rule that nothing comes to leaves nothing.
		{"{to: {subset: v2}}, {match: {metadata: [{key: x, present: true}]}, to: {}}", "1"},
	} {
		for _, service := range []string{"greeter", `"*"`} {
			if strings.Contains(c.route, "subset") && service != "greeter" {
				continue // a subset is one service's
			}
			yaml := versions
			if c.route != "" {
				yaml += fmt.Sprintf("- {name: r, service: %s, route: {rules: [%s]}}\n", service, c.route)
			}
			got := compiled(t, yaml).Obstacle("greeter")
			if c.at == "" && got != "" || c.at != "" && !strings.Contains(got, fmt.Sprintf(`policy "r" sends all RPCs to parts of the service, or elsewhere, the last of them by rule %q`, c.at)) {
				t.Errorf("%s for %s: %q, want rule %q", c.route, service, got, c.at)
			}
		}
	}
	if got := compiled(t, "- {name: r, service: greeter, methods: [a.B], route: {rules: [{to: {service: other}}]}}").Obstacle("greeter"); got != "" {
		t.Errorf("a route for some methods: %q", got)
	}
	if got := compiled(t, versions+`- {name: r, service: greeter, route: {rules: [{to: {subset: v1}}]}}
- {name: s, service: greeter, methods: [a.B/C], route: {rules: [{to: {}}]}}
`).Obstacle("greeter"); got != "" {
		t.Errorf("a route for all methods beside one that leaves some: %q", got)
	}
	if got := compiled(t, versions+`- {name: r, service: greeter, route: {rules: [{to: {subset: v1}}]}}
- {name: s, service: greeter, methods: [a.B/C], route: {rules: [{to: {subset: v2}}]}}
`).Obstacle("greeter"); got == "" {
		t.Error("a route for all methods beside one for some, both to a part: they decide")
	}
	if got := (*Set)(nil).Obstacle("greeter"); got != "" {
		t.Errorf("no policies: %q", got)
	}
}
