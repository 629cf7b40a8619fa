package chain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// written is a chain of the service "a" with these targets, and a resolver for each.
func written(t *testing.T, start, nodes, targets string) *Compiled {
	t.Helper()
	c, err := Parse([]byte(`{"Chain": {"ServiceName": "a", "Namespace": "default", "Partition": "default", "Datacenter": "dc1", "Protocol": "grpc",
		"StartNode": "` + start + `", "Nodes": {` + nodes + `}, "Targets": {` + targets + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	nodeA   = `"resolver:a": {"Type": "resolver", "Resolver": {"Target": "a"}}`
	targetA = `"a": {"Service": "a", "Datacenter": "dc1"}`
)

// What cannot be reached is answered, and never goes anywhere else.
func TestTargetsOutOfReach(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		`"Service": "b", "Datacenter": "dc1", "Namespace": "other"`:                       `is in the namespace "other"`,
		`"Service": "b", "Datacenter": "dc1", "Partition": "other"`:                       `is in the partition "other"`,
		`"Service": "b", "Peer": "p"`:                                                     `is of the peer "p"`,
		`"Service": "b", "Datacenter": "dc2", "MeshGateway": {"Mode": "remote"}`:          `behind a mesh gateway (mode "remote")`,
		`"Service": "b", "Datacenter": "dc1", "External": true, "SNI": "api.example.com"`: "outside of the cluster",
	} {
		for _, start := range []string{"resolver:b", "splitter:a", "router:a"} {
			c := written(t, start, nodeA+`, "resolver:b": {"Type": "resolver", "Resolver": {"Target": "b"}},
				"splitter:a": {"Type": "splitter", "Splits": [{"Weight": 100, "NextNode": "resolver:b"}]},
				"router:a": {"Type": "router", "Routes": [{"Definition": {}, "NextNode": "resolver:b"}]}`, targetA+`, "b": {`+target+`}`)
			r := c.Policies("a", "", nil)
			if got := where(compiled(t, r), "a", "/x.Y/Z"); got != "Unavailable" {
				t.Errorf("%s, %s: it goes to %s", target, start, got)
			}
			if len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Problem, want) || r.Refused[0].Policy != "consul.a.route" || r.Refused[0].Service != "a" {
				t.Errorf("%s, %s: refused is %+v", target, start, r.Refused)
			}
		}
	}
}

func TestRoutesThatCannotBeTold(t *testing.T) {
	t.Parallel()
	for match, want := range map[string]string{
		`{"Header": [{"Name": ":authority", "Exact": "x"}]}`:   `":authority" is no metadata`,
		`{"Header": [{"Name": "x-bin", "Exact": "x"}]}`:        "compared in base64",
		`{"Header": [{"Name": "x y", "Present": true}]}`:       "is no metadata key",
		`{"PathRegex": "("}`:                                   "path_regex: error parsing",
		`{"PathRegex": "(.{1,30}){1,30}"}`:                     "more than 512 instructions",
		`{"Header": [{"Name": "x", "Regex": "a)|(b"}]}`:        "regex: error parsing",
		`{"Cookie": [{"Name": "x"}]}`:                          "not known here",
		`{"PathPrefix": "/` + strings.Repeat("x-", 600) + `"}`: "longer than",
		`{"PathPrefix": 7}`:                                    "not known here",
		`{"Header": [` + strings.Repeat(`{"Name": "x", "Present": true},`, 64) + `{"Name": "x", "Present": true}]}`: "at most",
	} {
		c := written(t, "router:a", nodeA+`, "resolver:b": {"Type": "resolver", "Resolver": {"Target": "b"}},
			"router:a": {"Type": "router", "Routes": [{"Definition": {"Match": {"HTTP": `+match+`}}, "NextNode": "resolver:b"}, {"Definition": {}, "NextNode": "resolver:a"}]}`,
			targetA+`, "b": {"Service": "b", "Datacenter": "dc1"}`)
		r := c.Policies("a", "", nil)
		if len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Problem, want) || !r.Refused[0].Partial || !strings.Contains(r.Refused[0].Problem, `service-router "a": routes[0].match`) {
			t.Errorf("%.60s: refused is %+v, want %q", match, r.Refused, want)
		}
		if got := where(compiled(t, r), "a", "/x.Y/Z"); got != "a/" {
			t.Errorf("%.60s: RPCs go to %s", match, got)
		}
	}
}

func TestBeyondTheBounds(t *testing.T) {
	t.Parallel()
	pairs := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`"x-%d": "1"`, i))
		}
		return strings.Join(list, ",")
	}
	route := func(destination, target string) *Result {
		return written(t, "router:a", `"resolver:b": {"Type": "resolver", "Resolver": {"Target": "b"}},
			"router:a": {"Type": "router", "Routes": [{"Definition": {"Destination": {`+destination+`}}, "NextNode": "resolver:b"}]}`, `"b": {"Datacenter": "dc1", `+target+`}`).Policies("a", "", nil)
	}
	for want, r := range map[string]*Result{
		"more than 64 headers":      route(`"RequestHeaders": {"Set": {`+pairs(65)+`}}`, `"Service": "b"`),
		"more than 8192 bytes":      route(`"ResponseHeaders": {"Add": {"x": "`+strings.Repeat("x", 9000)+`"}}`, `"Service": "b"`),
		"no service's name here":    route("", `"Service": "b/../c"`),
		`"any" is no subset's name`: route("", `"Service": "b", "ServiceSubset": "any"`),
	} {
		if len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Problem, want) || r.Refused[0].Partial != strings.Contains(r.Refused[0].Problem, "end UNAVAILABLE") {
			t.Errorf("%s: refused is %+v", want, r.Refused)
		}
		for _, p := range r.Policies {
			if err := configyaml.CheckPolicy(p); err != nil {
				t.Errorf("%s: %v", want, err)
			}
		}
	}
	if r := route(`"RequestHeaders": {"Set": {`+pairs(64)+`}}`, `"Service": "b"`); len(r.Refused) != 0 || len(r.Policies) != 1 {
		t.Errorf("64 headers: %+v", r)
	}
	long := strings.Repeat("s", 200)
	if name := policyName(long, kindRoute); len(name) > maxPolicyName || name == policyName(long+"s", kindRoute) {
		t.Errorf("a long service's policy is called %q", name)
	}
}

// A split yields to canaries, as far as the service's parts are concerned.
func TestSplitsYield(t *testing.T) {
	t.Parallel()
	const leg = `"Definition": {"RequestHeaders": {"Set": {"x-leg": "1"}}}, `
	for _, c := range []struct {
		name, route, leg string
		yields           bool
		group, rule      string // the keys that are set
	}{
		{"alone", "", "", true, "", ""},
		{"a leg's changes", "", leg, true, "x-leg", ""},
		{"changes of different keys", `"RequestHeaders": {"Set": {"x-route": "1"}}`, leg, true, "x-leg", "x-route"},
		{"changes of the same key", `"RequestHeaders": {"Remove": ["x-leg"]}`, leg, false, "", ""},
	} {
		r := written(t, "router:a", `"resolver:v1": {"Type": "resolver", "Resolver": {"Target": "v1"}},
			"splitter:a": {"Type": "splitter", "Splits": [{`+c.leg+`"Weight": 100, "NextNode": "resolver:v1"}]},
			"router:a": {"Type": "router", "Routes": [{"Definition": {"Destination": {`+c.route+`}}, "NextNode": "splitter:a"}]}`,
			`"v1": {"Service": "a", "ServiceSubset": "v1", "Datacenter": "dc1"}`).Policies("a", "", nil)
		rule := policyOf(t, r, "a.route").GetRoute().GetRules()[0]
		set := func(c *configv1.MetadataChange) string {
			return strings.Join(slices.Sorted(maps.Keys(c.GetSet())), " ")
		}
		if got := rule.GetSplit().GetDestinations()[0].GetRequest(); rule.GetYields() != c.yields || set(got) != c.group || set(rule.GetRequest()) != c.rule || len(r.Notes) > 0 == c.yields {
			t.Errorf("%s: %v, %q", c.name, rule, r.Notes)
		}
		_ = compiled(t, r)
	}
	// To choose a service is to choose no part of it, and a route of its own stays.
	for _, c := range []struct {
		name   string
		yields []bool
	}{{"split", []bool{true}}, {"split-answers", []bool{true, true, false}}, {"split-nested", []bool{true}}, {"paths", []bool{false, false, false, false}}, {"redirect", []bool{false}}} {
		var got []bool
		for _, rule := range policyOf(t, recorded(t, c.name).Policies(c.name, "", nil), c.name+".route").GetRoute().GetRules() {
			got = append(got, rule.GetYields())
		}
		if !slices.Equal(got, c.yields) {
			t.Errorf("%s: %v, want %v", c.name, got, c.yields)
		}
	}
}

func TestFiltersThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"Service.Nope == 1", "(", strings.Repeat("x", 9000)} {
		text, err := json.Marshal(filter)
		if err != nil {
			t.Fatal(err)
		}
		r := written(t, "resolver:a", nodeA, `"a": {"Service": "a", "ServiceSubset": "v1", "Datacenter": "dc1", "Subset": {"Filter": `+string(text)+`}}`).Policies("a", "", nil)
		if len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Problem, `subsets["v1"].filter`) || len(r.Filters) != 0 {
			t.Errorf("%.40q: %+v, filters %v", filter, r.Refused, r.Filters)
		}
		if p := policyOf(t, r, "a.subsets").GetSubsets(); p.GetDefault() != "v1" || p.GetSubsets()["v1"].GetMeta()[MetaOfSubset("v1")] != InSubset {
			t.Errorf("%.40q: RPCs go to others than the subset: %v", filter, p)
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	entry := &api.ServiceEntry{
		Node:    &api.Node{Node: "n", Datacenter: "dc1", Meta: map[string]string{"rack": "7"}},
		Service: &api.AgentService{ID: "a-1", Service: "a", Port: 80, Tags: []string{"blue"}, Meta: map[string]string{"version": "v1"}},
		Checks:  api.HealthChecks{{Status: "passing"}},
	}
	for filter, want := range map[string]bool{
		"":                             true,
		"Service.Meta.version == v1":   true,
		`Service.Meta.version != "v1"`: false,
		`"blue" in Service.Tags and not ("red" in Service.Tags)`: true,
		"Service.Port == 81":                        false,
		"Node.Meta.rack == 7 or Service.ID == x":    true,
		`Service.Meta.version matches "v[0-9]"`:     true,
		"Checks is empty":                           false,
		`Service.Meta.none == "v1"`:                 false,
		"Service.Proxy.DestinationServiceName == x": false, // there is none
	} {
		m, err := Filter{Filter: filter}.Compile()
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		if got := m.Matches(entry); got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
		if filter != "" && filter != "Checks is empty" && m.Matches(&api.ServiceEntry{}) {
			t.Errorf("%s: what has nothing matches", filter)
		}
	}
}

func TestAnswersThatAreNoChains(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`[]`: "no discovery chain", `{}`: "has no discovery chain", `null`: "has no discovery chain",
		`{"Chain": {"StartNode": "x"}}`:                                                    "not there",
		`{"Chain": {"Nodes": {"x": null}}}`:                                                "empty",
		`{"Chain": {"Targets": {"x": null}}}`:                                              "empty",
		`{"Chain": {"Nodes": {"x": {"Type": "planner"}}}}`:                                 "not known here",
		`{"Chain": {"Nodes": {"x": {"Type": "resolver"}}}}`:                                "no target",
		`{"Chain": {"Nodes": {"x": {"Type": "splitter", "Splits": [{"NextNode": "x"}]}}}}`: "no resolver",
		`{"Chain": {"Nodes": {"x": {"Type": "router", "Routes": [{"NextNode": "x"}]}}}}`:   "no splitter or resolver",
		`{"Chain": {"Nodes": {"x": {"Type": "resolver", "Resolver": {"Target": "t", "Failover": {"Targets": ["u"]}}}}, "Targets": {"t": {}}}}`: "fails over",
		`{"Chain": {"Nodes": {"x": {"Type": "resolver", "Resolver": {"ConnectTimeout": "soon"}}}}}`:                                            "invalid duration",
	} {
		if _, err := Parse([]byte(answer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", answer, err, want)
		}
	}
}

// One change after another is the two of them as one.
func TestChangesAfterOneAnother(t *testing.T) {
	t.Parallel()
	key := rapid.SampledFrom([]string{"a", "b", "c"})
	change := rapid.Custom(func(t *rapid.T) *configv1.MetadataChange {
		return &configv1.MetadataChange{
			Set:    rapid.MapOfN(key, rapid.StringMatching("[s-z]"), 0, 3).Draw(t, "set"),
			Add:    rapid.MapOfN(key, rapid.StringMatching("[s-z]"), 0, 3).Draw(t, "add"),
			Remove: rapid.SliceOfNDistinct(key, 0, 3, rapid.ID[string]).Draw(t, "remove"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		first, next := change.Draw(t, "first"), change.Draw(t, "next")
		fields := rapid.MapOfN(key, rapid.SliceOfN(rapid.StringMatching("[l-p]"), 1, 2), 0, 3).Draw(t, "fields")
		got := apply(then(first, next), apply(nil, fields))
		want := apply(next, apply(first, fields))
		for _, k := range []string{"a", "b", "c"} {
			if g, w := strings.Join(got[k], ","), strings.Join(want[k], ","); g != w {
				t.Fatalf("%s is %q, want %q", k, g, w)
			}
		}
	})
}

// apply makes a change as the schema says: remove, set, add.
func apply(c *configv1.MetadataChange, fields map[string][]string) map[string][]string {
	changed := maps.Clone(fields)
	if changed == nil {
		changed = map[string][]string{}
	}
	for _, key := range c.GetRemove() {
		delete(changed, key)
	}
	for key, value := range c.GetSet() {
		changed[key] = []string{value}
	}
	for key, value := range c.GetAdd() {
		changed[key] = append(slices.Clone(changed[key]), value)
	}
	return changed
}

// FuzzChains makes policies of anything that may pass for a chain: they are in order, and
// what does not become one is told.
func FuzzChains(f *testing.F) {
	for _, name := range []string{"changes", "headers", "split-answers", "failover-datacenter", "gateway", "hash-many", "odd-changes", "paths", "retries"} {
		text, err := json.Marshal(map[string]any{"Chain": recorded(f, name)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"Chain": {"ServiceName": "a", "StartNode": "s", "Nodes": {"s": {"Type": "splitter", "Splits": [{"Weight": 1e30, "NextNode": "r"}, {"Weight": -1, "NextNode": "r"}]}, "r": {"Type": "resolver", "Resolver": {"Target": "t"}}}, "Targets": {"t": {"Service": "../x", "ServiceSubset": "none"}}}}`))
	f.Cleanup(configyaml.HoldRules())
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		r := c.Policies("a", "", nil)
		for _, p := range r.Policies {
			if err := configyaml.CheckPolicy(p); err != nil || !strings.HasPrefix(p.GetName(), PolicyPrefix) {
				t.Fatalf("%v: %v", p, err)
			}
		}
		for _, one := range r.Refused {
			if one.Problem == "" || one.Policy == "" || strings.Contains(one.Problem, "\n") || len(one.Problem) > 1100 {
				t.Fatalf("%+v", one)
			}
		}
		for _, note := range r.Notes {
			if strings.Contains(note, "\n") || len(note) > 1100 {
				t.Fatalf("%q", note)
			}
		}
		set, _ := policy.Compile(r.Policies, nil, policy.Env{})
		_ = where(set, "a", "/x.Y/Z", "x: y")
		if fmt.Sprint(r.Refused) != fmt.Sprint(c.Policies("a", "", nil).Refused) {
			t.Fatal("the same chain comes to something else")
		}
	})
}
