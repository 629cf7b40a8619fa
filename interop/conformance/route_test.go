package conformance

import (
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the name of the one service behind the sidecars of these tests.
const service = "interop"

// routes are the ways from a client to an app. Each starts what it needs and
// returns the address that the client dials.
var routes = []struct {
	name string
	open func(t *testing.T, app string) string
}{
	{"direct", func(_ *testing.T, app string) string { return app }},
	{"one sidecar", func(t *testing.T, app string) string {
		t.Helper()

		return outbound(t, app)
	}},
	{"two sidecars", func(t *testing.T, app string) string {
		t.Helper()

		return outbound(t, inbound(t, app))
	}},
}

func outbound(t *testing.T, instance string) string {
	t.Helper()

	mesh := harness.NewMesh(t, map[string]harness.Service{service: {Endpoints: harness.Endpoints(instance)}})

	return harness.StartSidecar(t, harness.Config{Outbound: true, Default: service, Mesh: mesh}).Outbound
}

func inbound(t *testing.T, app string) string {
	t.Helper()

	mesh := harness.NewMesh(t, nil)

	return harness.StartSidecar(t, harness.Config{Service: service, App: app, Mesh: mesh}).Inbound
}
