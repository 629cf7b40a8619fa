package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	warnings := Warnings(written(t, `
- name: rules
  service: greeter
  methods: [helloworld.Greeter]
  route:
    rules:
    - {name: a, match: {metadata: [{key: user, exact: alice}]}, to: {service: other}}
    - {name: b, match: {metadata: [{key: user, exact: alice}, {key: more, present: true}]}, to: {service: other}}
    - {name: c, match: {fraction: 0}, to: {service: other}}
    - {name: d, match: {metadata: [{key: n, exact: "7"}, {key: n, range: {start: 10, end: 20}}]}, to: {service: other}}
    - {name: e, match: {methods: [helloworld.Old]}, to: {service: other}}
    - {name: f, match: {methods: [helloworld.Greeter/Say*, x.Y]}, to: {service: other}}
    - {name: g, match: {methods: [helloworld.Greeter/SayHello]}, to: {service: other}}
    - {name: h, to: {service: nobody, subset: v1}}
    - {name: i, match: {callers: [web]}, to: {service: other}}
- {name: services, service: gone, methods: [a.*, a.B], timeout: {default: 1s}}
- {name: whole, service: other, route: {rules: [{split: {destinations: [{weight: 10000, service: greeter}, {weight: 0, service: far}]}}]}}
- {name: subsets, service: other, subsets: {subsets: {v1: {}}}}
- {name: lb, service: greeter, load_balancing: {policy: random, hash: {caller: true}, failover: [{service: far}]}}
- {name: limit, service: other, rate_limit: {limits: [{requests: 1, match: {metadata: [{key: user, present: false}, {key: user, prefix: a}]}}]}}
- {name: fine, service: other, fault: {match: {metadata: [{key: user, prefix: a}, {key: user, suffix: b}]}, abort: {status: {code: ABORTED}, fraction: 1}}}
- {name: split, service: greeter, methods: [helloworld.Greeter], split: {match: {methods: [x.Y]}, split: {destinations: [{weight: 10000, subset: v9}, {weight: 0, service: far}]}}}
`), []string{"greeter", "other"})
	want := []string{
		`policy "rules", route.rules[7].to.subset: no policy says what the subset "v1" of service "nobody" is`,
		`policy "rules", route.rules[1]: can never match: rule "a" comes before it and matches all that it would`,
		`policy "rules", route.rules[2].match: can never match: it is for 0/10000 of the RPCs`,
		`policy "rules", route.rules[3].match: can never match: it asks for metadata "n" of "7" and for metadata "n" from 10 up to and without 20, which no RPC has`,
		`policy "rules", route.rules[4].match: can never match: it is for methods that the policy is not for`,
		`policy "rules", route.rules[5].match.methods: "x.Y" is no method that the policy is for`,
		`policy "rules", route.rules[6]: can never match: rule "f" comes before it and matches all that it would`,
		`policy "rules", route.rules[7].to.service: no service "nobody" is known`,
		`policy "rules", route.rules[8]: can never match: rule "h" comes before it and matches all that it would`,
		`policy "services", service: no service "gone" is known`,
		`policy "services", methods[1]: "a.B" is part of "a.*", which is there too`,
		`policy "whole", route.rules[0].split.destinations[1].service: no service "far" is known`,
		`policy "whole", route.rules[0].split.destinations[0].weight: all RPCs go to "greeter", and none to the others`,
		`policy "subsets", subsets.subsets["v1"]: asks for no meta and no tags, so it is all instances`,
		`policy "lb", load_balancing.hash: is not looked at by random: it is for ring_hash and maglev`,
		`policy "lb", load_balancing.failover[0].service: no service "far" is known`,
		`policy "limit", rate_limit.limits[0].match: can never match: it asks for no metadata "user" and for metadata "user" that begins with "a", which no RPC has`,
		`policy "split", split.split.destinations[0].subset: no policy says what the subset "v9" of service "greeter" is`,
		`policy "split", split.match: can never match: it is for methods that the policy is not for`,
		`policy "split", split.split.destinations[1].service: no service "far" is known`,
		`policy "split", split.split.destinations[0].weight: all RPCs go to "v9", and none to the others`,
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("warned of\n%s\nnot of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNobodyIsWarnedOfServicesThatCannotBeKnown(t *testing.T) {
	t.Parallel()
	if w := Warnings(written(t, "- {name: p, service: gone, timeout: {default: 1s}}"), nil); len(w) > 0 {
		t.Errorf("%v", w)
	}
}

// A rule that people are told can never match never decides.
func TestRulesThatCanNeverMatchNeverDo(t *testing.T) {
	t.Parallel()
	warned := 0
	rapid.Check(t, func(t *rapid.T) {
		policy := &configv1.Policy{Name: "p", Service: "greeter", Methods: []string{"a", "b/x"}}
		policy.Kind = &configv1.Policy_Route{Route: drawRoute(t)}
		set, refused := Compile([]*configv1.Policy{policy}, nil, Env{})
		if len(refused) > 0 {
			t.Fatalf("%v", refused)
		}
		never := map[string]string{}
		for _, w := range Warnings([]*configv1.Policy{policy}, nil) {
			for i, rule := range policy.GetRoute().GetRules() {
				if strings.HasPrefix(w.Field, fmt.Sprintf("route.rules[%d]", i)) && strings.HasPrefix(w.Message, "can never match") {
					never[rule.GetName()] = w.Message
				}
			}
		}
		warned += len(never)
		for range 50 {
			rpc := drawRPC(t)
			m := set.Service("greeter").Outbound(rpc.Path)
			if m == nil {
				continue
			}
			if d := m.Route.Decide(rpc, "greeter", nil); d.Rule != nil && never[d.Rule.Name] != "" {
				t.Fatalf("rule %q decides %v, though: %s", d.Rule.Name, rpc, never[d.Rule.Name])
			}
		}
	})
	if warned < 20 && !t.Failed() {
		t.Errorf("only %d rules were found that can never match", warned)
	}
}
