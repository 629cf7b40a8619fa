package policy

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// An instance that says it is not serving gets no RPC once it has said so often
// enough, and gets some again after that.
func TestHealthChecks(t *testing.T) {
	t.Parallel()

	const unhealthy = 2

	apps, service := startApps(t, 2)
	sidecar, _ := governed(t, service, `
- {name: health, service: app, health_check: {interval: 200ms, timeout: 10s, unhealthy_threshold: 2, healthy_threshold: 2}}
`)
	conn := load.Dial(t, sidecar.Outbound)
	calls(t, conn, 50).all(t)
	if apps[0].came.Load() == 0 {
		t.Fatal("the instance got nothing while it was well")
	}

	apps[0].sick.Store(true)
	checked := apps[0].checks.Load()
	// One more may have been under way; and with the next one, the answer is there.
	eventually(t, "the instance has said it often enough", func() bool { return apps[0].checks.Load() >= checked+unhealthy+2 })
	before := apps[0].came.Load()
	calls(t, conn, 300).all(t)
	if n := apps[0].came.Load() - before; n > 0 {
		t.Errorf("the instance got %d RPCs though it is not serving", n)
	}

	apps[0].sick.Store(false)
	eventually(t, "the instance is used again", func() bool {
		calls(t, conn, 10).all(t)

		return apps[0].came.Load() > before
	})
}

// RPCs stay in the zone while its instances are well, spill over as they are not, and
// leave when none is.
func TestLocality(t *testing.T) {
	t.Parallel()

	const rpcs = 1000

	apps, service := startApps(t, 4)
	for i := range service.Endpoints {
		service.Endpoints[i].Meta = map[string]string{"zone": string("aabb"[i])}
	}
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": service})
	mesh.SetPolicies(t, `
- {name: near, service: app, load_balancing: {locality: {max_load_ratio: 0}}}
- {name: health, service: app, health_check: {interval: 100ms, timeout: 10s, unhealthy_threshold: 1, healthy_threshold: 1}}
`)
	local := startApp(t, "local")
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: "app", Mesh: mesh,
		Service: "client", App: local.Address, Meta: map[string]string{"zone": "a"},
	}).Outbound)

	if got := calls(t, conn, rpcs).all(t).answered; got["0"]+got["1"] != rpcs || got["0"] < rpcs/3 || got["1"] < rpcs/3 {
		t.Errorf("while all are well, RPCs are answered by %v", got)
	}
	leave := func(a *app) {
		a.sick.Store(true)
		checked := a.checks.Load()
		eventually(t, "the instance has said that it is not serving", func() bool { return a.checks.Load() >= checked+3 })
	}
	leave(apps[0])
	eventually(t, "some RPCs leave the zone", func() bool {
		got := calls(t, conn, 20).all(t).answered

		return got["2"]+got["3"] > 0
	})
	// Half of the zone is well, which counts for 1.4 times as much: 70 % stay.
	got := calls(t, conn, rpcs).all(t).answered
	t.Logf("half of the zone is well: answered by %v", got)
	if got["0"] > 0 || got["1"] < rpcs*6/10 || got["1"] > rpcs*8/10 || got["2"] == 0 || got["3"] == 0 {
		t.Errorf("while half of the zone is well, RPCs are answered by %v; want 700 of %d to stay", got, rpcs)
	}
	leave(apps[1])
	if got := calls(t, conn, rpcs).all(t).answered; got["2"]+got["3"] != rpcs || got["2"] < rpcs/3 || got["3"] < rpcs/3 {
		t.Errorf("while nobody near is well, RPCs are answered by %v", got)
	}
}

// RPCs go to another service, which nobody asked for before, while none of the first
// one's instances can be used, and while the registry does not know it at all.
func TestFailover(t *testing.T) {
	t.Parallel()

	apps, service := startApps(t, 2)
	backup := startApp(t, "backup")
	mesh := harness.NewMesh(t, map[string]harness.Service{
		"app":    service,
		"backup": {Endpoints: harness.Endpoints(backup.Address)},
	})
	mesh.SetPolicies(t, `
- {name: elsewhere, service: app, load_balancing: {failover: [{service: unknown}, {service: backup}]}}
`)
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})
	conn := load.Dial(t, sidecar.Outbound, grpc.WithAuthority("app"))
	only := func(name string) {
		t.Helper()
		if got := calls(t, conn, 50).all(t).answered; got[name] != 50 {
			t.Errorf("answered by %v, want %s alone", got, name)
		}
	}
	if got := calls(t, conn, 50).all(t).answered; got["backup"] > 0 {
		t.Errorf("while all are well, RPCs are answered by %v", got)
	}
	for _, a := range apps {
		a.Kill()
	}
	// What is on its way while the sidecar learns of it may have been seen.
	eventually(t, "the sidecar knows that they are gone", func() bool { return calls(t, conn, 20).answered["backup"] == 20 })
	only("backup")

	mesh.Set(t, "app", harness.Service{Endpoints: harness.Endpoints(startApp(t, "new").Address)})
	eventually(t, "the service is used again", func() bool { return calls(t, conn, 1).all(t).answered["new"] > 0 })
	only("new")

	mesh.Remove(t, "app")
	eventually(t, "the registry does not know the service any more", func() bool { return calls(t, conn, 1).all(t).answered["backup"] > 0 })
	only("backup")
}
