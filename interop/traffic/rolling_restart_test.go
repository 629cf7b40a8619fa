package traffic

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// rollingLoad is what runs during a restart: as much as the machine can, and not so many
// at once that a slow one takes a minute for each.
var rollingLoad = load.Options{PerSecond: 2000, StreamEvery: 20, AtOnce: 400, Least: 0.02, MayBeSlow: true}

// between is what sidecars speak with each other.
type between struct {
	// ca signs their certificates; nil: they speak plaintext.
	ca *harness.CA
}

// as are the settings of a service's sidecar.
func (b between) as(service string) map[string]any {
	if b.ca == nil {
		return nil
	}

	return map[string]any{"identity": b.ca.Identity(service)}
}

// instance is an app with the sidecar beside it.
type instance struct {
	app     *load.App
	sidecar *harness.Sidecar
}

// startSidecar starts the sidecar beside an instance's app.
func (b between) startSidecar(t *testing.T, app, inbound string) *harness.Sidecar {
	t.Helper()

	return harness.StartSidecar(t, harness.Config{
		Service: "app", App: app, InboundListen: inbound, Mesh: harness.NewMesh(t, nil), Settings: b.as("app"),
	})
}

func (b between) startInstance(t *testing.T, name, appAddress, inbound string) *instance {
	t.Helper()

	a := load.StartApp(t, name, appAddress)

	return &instance{app: a, sidecar: b.startSidecar(t, a.Address, inbound)}
}

// stopSidecar ends the sidecar as a service manager does.
func (i *instance) stopSidecar(t *testing.T) {
	t.Helper()

	i.sidecar.Signal(t, syscall.SIGTERM)
	if code := i.sidecar.Wait(t); code != 0 {
		t.Errorf("the sidecar of instance %s ended with %d", i.app.Name, code)
	}
}

// stopApp ends the app as a service manager does.
func (i *instance) stopApp() {
	i.app.Stop()
}

// startInstances starts some, and a load through the sidecar beside a client.
func (b between) startInstances(t *testing.T, count int) (instances []*instance, l *load.Load) {
	t.Helper()

	var inbound []string
	for n := range count {
		i := b.startInstance(t, strconv.Itoa(n), harness.FreeAddress(t), harness.FreeAddress(t))
		instances = append(instances, i)
		inbound = append(inbound, i.sidecar.Inbound)
	}
	client := harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: "app", Settings: b.as("client"),
		Mesh: harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(inbound...)}}),
	})

	return instances, load.Start(t, load.Dial(t, client.Outbound), rollingLoad)
}

// None of these tests is parallel: they need a rate.

// Three instances are replaced one after the other, each with the sidecar beside
// it: the sidecar goes first and comes last.
func TestRollingRestartOfInstancesAndTheirSidecars(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) { restartInstancesAndSidecars(t, between{}) })
	t.Run("mutual TLS", func(t *testing.T) { restartInstancesAndSidecars(t, between{harness.NewCA(t)}) })
}

func restartInstancesAndSidecars(t *testing.T, b between) {
	t.Helper()

	instances, l := b.startInstances(t, 3)
	for n, old := range instances {
		eventually(t, "the instance takes traffic", func() bool { return old.app.Calls() > 0 })
		old.stopSidecar(t)
		old.stopApp()

		instances[n] = b.startInstance(t, old.app.Name, old.app.Address, old.sidecar.Inbound)
		eventually(t, "the new instance takes traffic", func() bool { return instances[n].app.Calls() > 0 })
	}
	l.End(t)
}

// Only the sidecars are replaced, as for an upgrade of Pillion.
func TestRollingRestartOfTheSidecarsAlone(t *testing.T) {
	b := between{}
	instances, l := b.startInstances(t, 3)
	for _, old := range instances {
		eventually(t, "the instance takes traffic", func() bool { return old.app.Calls() > 0 })
		old.stopSidecar(t)

		before := old.app.Calls()
		b.startSidecar(t, old.app.Address, old.sidecar.Inbound)
		eventually(t, "the new sidecar takes traffic", func() bool { return old.app.Calls() > before })
	}
	l.End(t)
}

// Only the apps are replaced, under sidecars that stay: what an inbound side
// cannot hand to its app was not processed, and goes to another instance.
func TestRollingRestartOfTheAppsAlone(t *testing.T) {
	instances, l := between{}.startInstances(t, 3)
	for _, i := range instances {
		eventually(t, "the instance takes traffic", func() bool { return i.app.Calls() > 0 })
		i.stopApp()

		i.app = load.StartApp(t, i.app.Name, i.app.Address)
		eventually(t, "the new app takes traffic", func() bool { return i.app.Calls() > 0 })
	}
	l.End(t)
}
