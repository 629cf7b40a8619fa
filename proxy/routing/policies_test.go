package routing

import (
	"testing"
	"testing/synctest"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

func policies(t *testing.T, yaml string) *policy.Set {
	t.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte("policies:\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	set, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return set
}

// A service that the registry does not know is found nevertheless where policies say
// where its RPCs go.
func TestServicesThatOnlyPoliciesKnow(t *testing.T) {
	for what, c := range map[string]struct {
		yaml string
		path string
		want string // the service that is found
	}{
		"a route":                 {`- {name: r, service: greeter, route: {rules: [{to: {service: other}}]}}`, "/a.B/C", "greeter"},
		"a route of its method":   {`- {name: r, service: greeter, methods: ["a.B/C"], route: {rules: [{to: {service: other}}]}}`, "/a.B/C", "greeter"},
		"one of another's":        {`- {name: r, service: greeter, methods: ["a.B/C"], route: {rules: [{to: {service: other}}]}}`, "/a.B/D", ""},
		"one of all services":     {`- {name: r, service: "*", route: {rules: [{to: {service: other}}]}}`, "/a.B/C", ""},
		"a failover":              {`- {name: f, service: greeter, load_balancing: {failover: [{service: other}]}}`, "/a.B/C", "greeter"},
		"something else":          {`- {name: t, service: greeter, timeout: {default: 1s}}`, "/a.B/C", ""},
		"what arrives is no help": {`- {name: t, service: greeter, inbound: true, timeout: {default: 1s}}`, "/a.B/C", ""},
	} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{})
				set := policies(t, c.yaml)
				r.SetPolicies(set)
				if found := r.Find(set, "greeter", c.path); !found.Wait || found.Service != "greeter" {
					t.Fatalf("before the registry has answered: %+v", found)
				}
				r.Await("", "greeter", c.path, nobody{}, 0)
				r.source.tell(t, "greeter", false)
				r.Await("", "", c.path, nobody{}, 0)
				synctest.Wait() // nobody answers the path either
				if found := r.Find(set, "greeter", c.path); found.Cluster != nil || found.Wait || found.Service != c.want {
					t.Errorf("found %+v, want the service %q", found, c.want)
				}
			})
		})
	}
}

// Clusters obey the policies that hold when they are made, and those that come later.
func TestClustersAreToldOfPolicies(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Declared: []string{"early", "late"}})
		has := func(service, subset string) bool {
			t.Helper()
			found := r.Service(service)
			if found.Cluster == nil {
				t.Fatalf("%s: %+v", service, found)
			}
			_, ok := found.Cluster.Pick(&upstream.Choice{Subset: subset})
			return ok
		}
		r.source.tell(t, "early", true)
		if !has("early", "") || has("early", "one") {
			t.Fatal("without policies there is a subset")
		}
		r.SetPolicies(policies(t, `
- {name: e, service: early, subsets: {subsets: {one: {meta: {}}}}}
- {name: l, service: "*", subsets: {subsets: {two: {meta: {}}}}}
`))
		r.source.tell(t, "late", true)
		if !has("early", "one") || has("early", "two") || !has("late", "two") {
			t.Error("the policies do not hold")
		}
		r.SetPolicies(policies(t, `
- {name: e, service: early, subsets: {subsets: {three: {meta: {}}}}}
`))
		if !has("early", "one") || !has("late", "two") {
			t.Error("RPCs that came before have lost their way")
		}
		r.SetPolicies(policies(t, `
- {name: e, service: early, subsets: {subsets: {four: {meta: {}}}}}
`))
		if has("early", "one") || !has("early", "three") || !has("early", "four") {
			t.Error("what policies said goes on to hold")
		}
	})
}
