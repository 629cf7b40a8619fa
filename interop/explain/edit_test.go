package explain

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// A bad edit is refused for the policy that it makes wrong, alone: the others of the
// file come into force, its own last version stays, and /config, metrics and log say so
// by name and field, until it is mended.
func TestBadEdit(t *testing.T) {
	t.Parallel()

	app := load.StartApp(t, "a", "")
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(app.Address)}})
	text := func(code, timeout string) string {
		return "policies:\n" +
			"- {name: gone, service: app, route: {rules: [{match: {metadata: [{key: x, exact: gone}]}, status: {code: " + code + "}}]}}\n" +
			"- {name: patience, service: app, timeout: {default: " + timeout + ", max: 10s}}\n"
	}
	folder := newPolicyFolder(t, "app.yaml", text("NOT_FOUND", "5s"))
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: folder.settings()})
	conn := dial(t, sidecar.Outbound)
	answered := func(want codes.Code) {
		t.Helper()
		if _, err := call(t, conn, "x", "gone"); status.Code(err) != want || want != codes.OK && !strings.Contains(err.Error(), `gone`) {
			t.Errorf("an RPC ended %v, want %v", err, want)
		}
	}
	expect := func(want map[string]string, refused float64) (version string) {
		t.Helper()
		version, list := policies(t, sidecar)
		for name, state := range want {
			if list[name].State != "POLICY_STATE_"+state {
				t.Errorf("policy %s: %+v, want %s", name, list[name], state)
			}
		}
		if len(list) != len(want) {
			t.Errorf("%d policies, want %d", len(list), len(want))
		}
		if n := sidecar.Metric(t, "pillion_policies", `state="refused"`); n != refused {
			t.Errorf("%v are refused, want %v", n, refused)
		}
		if n := sidecar.Metric(t, "pillion_policy_set_info", `version="`+version+`"`); n != 1 {
			t.Errorf("the metrics do not say version %q", version)
		}

		return version
	}
	answered(codes.NotFound)
	first := expect(map[string]string{"gone": "IN_FORCE", "patience": "IN_FORCE"}, 0)

	// The schema refuses one, and what is said of the other holds.
	folder.set(t, "app.yaml", text("ABORTED", "soon"))
	sidecar.Await(t, `policy is refused.*"policy":"patience".*app.yaml:3:53: policies\[1\].timeout.default: `)
	second := expect(map[string]string{"gone": "IN_FORCE", "patience": "KEPT"}, 1)
	if _, list := policies(t, sidecar); len(list["patience"].Problems) != 1 || !strings.Contains(list["patience"].Problems[0], `policies[1].timeout.default: "soon" is not a duration`) || list["patience"].Kind != "timeout" {
		t.Errorf("%+v", list["patience"])
	}
	answered(codes.Aborted)

	// What only the whole set shows is refused as well.
	folder.set(t, "app.yaml", text("ABORTED", "20s"))
	sidecar.Await(t, `policy is refused.*policies\[1\].timeout.default: is 20s, but no RPC may have more than max, 10s`)
	if third := expect(map[string]string{"gone": "IN_FORCE", "patience": "KEPT"}, 1); third != second || third == first {
		t.Errorf("versions are %s, %s, %s", first, second, third)
	}

	// A file that is broken as a whole changes nothing.
	folder.set(t, "app.yaml", "policies: [\n")
	sidecar.Await(t, `policies are not taken over.*app.yaml:\d+:\d+: is not valid YAML`)
	answered(codes.Aborted)

	folder.set(t, "app.yaml", text("NOT_FOUND", "5s"))
	sidecar.Await(t, `policy is in order again.*"policy":"patience"`)
	if last := expect(map[string]string{"gone": "IN_FORCE", "patience": "IN_FORCE"}, 0); last != first {
		t.Errorf("version %s became %s, though the same holds", first, last)
	}
	answered(codes.NotFound)
}
