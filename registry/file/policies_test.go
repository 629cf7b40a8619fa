package file

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/registry"
)

// An edit that makes one policy wrong leaves that one as it was, and changes the
// others.
func TestAWrongPolicyStaysAsItWas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	text := func(a, b, service string) string {
		return "services: {" + service + ": {}}\npolicies:\n" +
			"- {name: a, service: greeter, timeout: {default: " + a + "}}\n" +
			"- {name: b, service: greeter, methods: [x.Y], timeout: {default: " + b + "}}\n"
	}
	write(t, path, text("1s", "2s", "one"))
	f := open(t, path)
	states := make(chan *registry.Policies, 10)
	var watching sync.WaitGroup
	watching.Go(func() { f.WatchPolicies(t.Context(), func(p *registry.Policies) { states <- p }) })
	t.Cleanup(watching.Wait)

	expect := func(a, b string, refused ...string) {
		t.Helper()
		now := <-states
		got := map[string]string{}
		for _, p := range now.List {
			got[p.GetName()] = p.GetTimeout().GetDefault().AsDuration().String()
		}
		if len(got) != 2 || got["a"] != a || got["b"] != b {
			t.Errorf("in force are %v, want a %s, b %s", got, a, b)
		}
		var said []string
		for _, r := range now.Refused {
			said = append(said, r.Policy+" | "+r.Problem)
		}
		if len(said) != len(refused) || len(said) > 0 && said[0] != refused[0] {
			t.Errorf("refused are %q, want %q", said, refused)
		}
		if len(refused) == 0 {
			if at := now.Locate("b", "timeout.default"); at != path+":4:66: policies[1].timeout.default" {
				t.Error(at)
			}
		}
	}
	expect("1s", "2s")
	write(t, path, text("3s", "soon", "two"))
	expect("3s", "2s", `b | `+path+`:4:66: policies[1].timeout.default: "soon" is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"`)
	write(t, path, text("soon", "0s", "three"))
	<-states // a is wrong as well, and stays at 3s
	write(t, path, text("5s", "6s", "four"))
	expect("5s", "6s")
}
