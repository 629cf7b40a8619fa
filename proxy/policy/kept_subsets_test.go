package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// A route that is kept goes where it went, whatever becomes of its subset.
func TestWhatIsKeptHasItsSubsets(t *testing.T) {
	t.Parallel()
	const (
		before = "- {name: s, service: greeter, subsets: {subsets: {w0: {meta: {w: '0'}, fallback: w00}, w00: {meta: {w: '00'}}}}}\n"
		after  = "- {name: s, service: greeter, subsets: {subsets: {w1: {meta: {w: '1'}}}}}\n"
		right  = "- {name: r, service: SERVICE, route: {rules: [{to: {service: greeter, subset: w0}}]}}\n"
		typo   = "- {name: r, service: SERVICE, route: {rules: [{match: {metadata: [{key: X, exact: y}]}, to: {service: greeter, subset: w1}}]}}\n"
		lb     = "- {name: lb, service: greeter, load_balancing: {policy: random}}\n"
	)
	for _, service := range []string{"greeter", "web", `"*"`} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			set := compiled(t, strings.ReplaceAll(before+right, "SERVICE", service))
			def := set.Service("greeter").Cluster().Subsets["w0"]
			if def.Meta["w"] != "0" {
				t.Fatalf("%+v", def)
			}
			step := func(yaml string, refused string) *upstream.Policy {
				t.Helper()
				before := set.Service("greeter").Cluster()
				next, refusals := Compile(written(t, strings.ReplaceAll(yaml, "SERVICE", service)), set, Env{})
				if len(refusals) != 1 || refusals[0].Policy != "r" || !refusals[0].Kept || !strings.Contains(refusals[0].Message, refused) {
					t.Errorf("refused: %v", refusals)
				}
				p := next.Service("greeter").Cluster()
				if p == nil || p.Subsets["w0"].Meta["w"] != "0" || p.Subsets["w00"].Meta["w"] != "00" {
					t.Fatalf("%s: the kept route's subset is not there: %+v", yaml, p)
				}
				if _, ok := before.Subsets["w1"]; strings.Contains(yaml, "w: '1'") && !ok && p.Subsets["w1"].Meta["w"] != "1" {
					t.Errorf("the new subset is not there: %+v", p.Subsets)
				}
				set = next
				return p
			}
			step(after+typo, "upper case")
			version := set.Version()
			first := step(after+lb+typo, "upper case")
			if again := step(after+lb+typo, "upper case"); again != first {
				t.Error("the cluster is told of a change that there is not")
			}
			step(strings.ReplaceAll(after, "'1'", "'2'")+lb+typo, "upper case")
			step(after+right, "no subset")
			step(lb+typo, "upper case")
			if step(typo, "upper case"); len(set.Service("greeter").Cluster().Subsets) != 2 {
				t.Errorf("%+v", set.Service("greeter").Cluster())
			}
			step(after+typo, "upper case")
			if set.Version() != version {
				t.Error("the same in force has another version")
			}
			// What is right again needs nothing of that.
			set, refusals := Compile(written(t, strings.ReplaceAll(after+strings.ReplaceAll(right, "w0", "w1"), "SERVICE", service)), set, Env{})
			if p := set.Service("greeter").Cluster(); len(refusals) > 0 || len(p.Subsets) != 1 {
				t.Errorf("%v; %+v", refusals, p.Subsets)
			}
			if set.Version() == version {
				t.Error("others in force have the same version")
			}
		})
	}
}

// What is said of a subset now goes before what was.
func TestKeptSubsetsFallBackOnThoseThatThereAre(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- {name: s, service: greeter, subsets: {subsets: {w0: {fallback: w1}, w1: {meta: {w: old}}, x: {}}}}
- {name: r, service: greeter, route: {rules: [{to: {subset: w0}}]}}`)
	set, refusals := Compile(written(t, `
- {name: s, service: greeter, subsets: {subsets: {w1: {meta: {w: new}}}}}
- {name: r, service: greeter, route: {rules: [{to: {subset: w0}}]}}`), set, Env{})
	p := set.Service("greeter").Cluster()
	if len(refusals) != 1 || len(p.Subsets) != 2 || !slices.Equal([]string{p.Subsets["w0"].Fallback, p.Subsets["w1"].Meta["w"]}, []string{"w1", "new"}) {
		t.Errorf("%v; %+v", refusals, p.Subsets)
	}
}
