package traffic

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

const (
	// restartLoad is how many RPCs a second run during a restart; a machine that is
	// busy with other things must reach leastLoad, or nothing is proven.
	restartLoad = 2000
	leastLoad   = 400
)

// instance is an app with the sidecar beside it.
type instance struct {
	app     *app
	sidecar *harness.Sidecar
}

func startInstance(t *testing.T, name, appAddress, inbound string) *instance {
	t.Helper()

	a := startApp(t, name, appAddress)

	return &instance{app: a, sidecar: harness.StartSidecar(t, harness.Config{
		Service: "app", App: a.address, InboundListen: inbound, Mesh: harness.NewMesh(t, nil),
	})}
}

// stopSidecar ends the sidecar as a service manager does.
func (i *instance) stopSidecar(t *testing.T) {
	t.Helper()

	i.sidecar.Signal(t, syscall.SIGTERM)
	if code := i.sidecar.Wait(t); code != 0 {
		t.Errorf("the sidecar of instance %s ended with %d", i.app.name, code)
	}
}

// stopApp ends the app as a service manager does.
func (i *instance) stopApp() {
	i.app.server.GracefulStop()
	<-i.app.served
}

func startInstances(t *testing.T, count int) (instances []*instance, inbound []string) {
	t.Helper()

	for n := range count {
		i := startInstance(t, strconv.Itoa(n), harness.FreeAddress(t), harness.FreeAddress(t))
		instances = append(instances, i)
		inbound = append(inbound, i.sidecar.Inbound)
	}

	return instances, inbound
}

// None of these tests is parallel: they need a rate.

// Three instances are replaced one after the other, each with the sidecar beside
// it: the sidecar goes first and comes last.
func TestRollingRestartOfInstancesAndTheirSidecars(t *testing.T) {
	instances, inbound := startInstances(t, 3)
	l := startLoad(t, dial(t, harness.Outbound(t, inbound...).Outbound), restartLoad)
	for n, old := range instances {
		eventually(t, "the instance takes traffic", func() bool { return old.app.calls.Load() > 0 })
		old.stopSidecar(t)
		old.stopApp()

		instances[n] = startInstance(t, old.app.name, old.app.address, old.sidecar.Inbound)
		eventually(t, "the new instance takes traffic", func() bool { return instances[n].app.calls.Load() > 0 })
	}
	l.end(t, leastLoad)
}

// Only the sidecars are replaced, as for an upgrade of Pillion.
func TestRollingRestartOfTheSidecarsAlone(t *testing.T) {
	instances, inbound := startInstances(t, 3)
	l := startLoad(t, dial(t, harness.Outbound(t, inbound...).Outbound), restartLoad)
	for _, old := range instances {
		eventually(t, "the instance takes traffic", func() bool { return old.app.calls.Load() > 0 })
		old.stopSidecar(t)

		before := old.app.calls.Load()
		harness.StartSidecar(t, harness.Config{
			Service: "app", App: old.app.address, InboundListen: old.sidecar.Inbound, Mesh: harness.NewMesh(t, nil),
		})
		eventually(t, "the new sidecar takes traffic", func() bool { return old.app.calls.Load() > before })
	}
	l.end(t, leastLoad)
}

// Only the apps are replaced, under sidecars that stay: what an inbound side
// cannot hand to its app was not processed, and goes to another instance.
func TestRollingRestartOfTheAppsAlone(t *testing.T) {
	instances, inbound := startInstances(t, 3)
	l := startLoad(t, dial(t, harness.Outbound(t, inbound...).Outbound), restartLoad)
	for _, i := range instances {
		eventually(t, "the instance takes traffic", func() bool { return i.app.calls.Load() > 0 })
		i.stopApp()

		i.app = startApp(t, i.app.name, i.app.address)
		eventually(t, "the new app takes traffic", func() bool { return i.app.calls.Load() > 0 })
	}
	l.end(t, leastLoad)
}
