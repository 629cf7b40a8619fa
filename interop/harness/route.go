package harness

import (
	"path/filepath"
	"testing"
)

// RouteService is the name of the one service behind a [Route].
const RouteService = "app"

// Route is a way from a client to an app.
type Route struct {
	Name string
	// Sidecars is how many pillions an RPC goes through.
	Sidecars int
	// MTLS says that they talk by mutual TLS: the app is told who calls, as
	// [Proven] names it.
	MTLS bool
	// Open starts what stands between and returns the address that the client
	// dials, in the form that grpc.NewClient and pillion understand.
	Open func(t testing.TB, app string) string
}

// Routes are the ways that every RPC must take unchanged. The first is without
// Pillion: what fails there is the test's own fault.
var Routes = []Route{
	{"direct", 0, false, func(_ testing.TB, app string) string { return app }},
	{"one sidecar", 1, false, func(t testing.TB, app string) string {
		t.Helper()

		return Outbound(t, app).Outbound
	}},
	{"two sidecars", 2, false, func(t testing.TB, app string) string {
		t.Helper()

		return Outbound(t, Inbound(t, app).Inbound).Outbound
	}},
	{"two sidecars by mutual TLS", 2, true, func(t testing.TB, app string) string {
		t.Helper()

		ca := NewCA(t)
		inbound := StartSidecar(t, Config{
			Service: RouteService, App: app, Mesh: NewMesh(t, nil), Settings: map[string]any{"identity": ca.Identity(RouteService)},
		})

		return StartSidecar(t, Config{
			Outbound: true, Default: RouteService,
			Mesh:     NewMesh(t, map[string]Service{RouteService: {Endpoints: Endpoints(inbound.Inbound)}}),
			Settings: map[string]any{"identity": ca.Identity("client")},
		}).Outbound
	}},
	{"two sidecars over unix sockets", 2, false, func(t testing.TB, app string) string {
		t.Helper()

		folder := SocketFolder(t)
		inbound := StartSidecar(t, Config{
			Service: RouteService, App: app, Mesh: NewMesh(t, nil),
			InboundListen: "unix://" + filepath.Join(folder, "inbound"),
		})

		return StartSidecar(t, Config{
			Outbound: true, Default: RouteService,
			Mesh:           NewMesh(t, map[string]Service{RouteService: {Endpoints: Endpoints(inbound.Inbound)}}),
			OutboundListen: "unix://" + filepath.Join(folder, "outbound"),
		}).Outbound
	}},
}

// Outbound starts a sidecar beside a client, whose one service has these instances.
func Outbound(t testing.TB, instances ...string) *Sidecar {
	t.Helper()

	mesh := NewMesh(t, map[string]Service{RouteService: {Endpoints: Endpoints(instances...)}})

	return StartSidecar(t, Config{Outbound: true, Default: RouteService, Mesh: mesh})
}

// Inbound starts a sidecar beside an app.
func Inbound(t testing.TB, app string) *Sidecar {
	t.Helper()

	return StartSidecar(t, Config{Service: RouteService, App: app, Mesh: NewMesh(t, nil)})
}
