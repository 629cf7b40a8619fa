package entries

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// run runs a command of Pillion's, and says what it printed.
func (m *mesh) run(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	return harness.Run(t, harness.Command{Path: harness.PlainPillion(t), Args: append(args, "--consul", m.agent.Address)})
}

// A canary goes before Consul's splitter, on Pillions; and where an entry leaves it nothing to
// divide, it says so.
func TestCanaryOfAServiceWithASplitter(t *testing.T) {
	m := startMesh(t)
	m.place(t, testCase{name: "store"})
	m.place(t, testCase{name: "moved"})
	m.writeAll(t, []api.ConfigEntry{
		versions("store"), splitter("store", api.ServiceSplit{Weight: 100, ServiceSubset: v1}, api.ServiceSplit{ServiceSubset: v2}),
		versions("moved"), router("moved", when(api.ServiceRouteHTTPMatch{PathPrefix: "/"}, api.ServiceRouteDestination{ServiceSubset: v1})),
	})
	m.call(t, []string{"store", "moved"})
	goes := func(caller string, conn *grpc.ClientConn, want string) {
		t.Helper()
		last := ""
		consul.Eventually(t, caller+" goes to "+want, func() bool {
			said, _, err := call(t.Context(), conn, hello, nil)
			if last = said.Service + "/" + said.Instance; err != nil {
				last = err.Error()
			}
			return last == want
		})
	}
	must := func(args ...string) string {
		t.Helper()
		code, output := m.run(t, args...)
		if code != 0 {
			t.Fatalf("pillion %s: exit %d:\n%s\n%s", strings.Join(args, " "), code, output, m.sidecar.Output())
		}
		return output
	}
	for _, service := range []string{"store", "moved"} {
		goes("Envoy", m.envoy[service], service+"/v1")
		goes("Pillion", m.pillion[service], service+"/v1")
	}
	file := filepath.Join(t.TempDir(), "canaries.yaml")
	err := os.WriteFile(file, []byte(`canaries:
- {name: store, service: store, stable: v1, canary: v2, steps: [{weight: 10000, hold: 3600s}]}
- {name: moved, service: moved, stable: v1, canary: v2, steps: [{weight: 10000, hold: 3600s}]}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	must("apply", "-f", file, "--subsets-elsewhere")
	must("canary", "start", "store")
	goes("Pillion", m.pillion["store"], "store/v2")
	goes("Envoy", m.envoy["store"], "store/v1")
	must("canary", "abort", "store")
	goes("Pillion", m.pillion["store"], "store/v1")

	if code, output := m.run(t, "canary", "start", "moved"); code == 0 || !strings.Contains(output, `it would divide nothing: policy "consul.moved.route" sends all RPCs to parts of the service`) {
		t.Errorf("a canary that would divide nothing: exit %d: %s", code, output)
	}
	// One that runs when its service is moved away.
	must("canary", "start", "store")
	goes("Pillion", m.pillion["store"], "store/v2")
	if _, err := m.agent.Client.ConfigEntries().Delete(api.ServiceSplitter, "store", nil); err != nil {
		t.Fatal(err)
	}
	m.write(t, resolver("store", func(r *api.ServiceResolverConfigEntry) {
		r.Redirect = &api.ServiceResolverRedirect{Service: "moved", ServiceSubset: v1}
	}))
	goes("Pillion", m.pillion["store"], "moved/v1")
	consul.Eventually(t, "the canary's status says that it divides nothing", func() bool {
		return strings.Contains(must("canary", "status", "store"), `it divides nothing: policy "consul.store.route"`)
	})
}
