package consulmesh

import (
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// restartLoad is how many RPCs a second run during a restart.
var restartLoad = load.Options{PerSecond: 2000}

// Three instances are replaced one after the other, each with the sidecar beside
// it: the sidecar goes first, and comes last. Consul tells the caller's sidecar.
// It is not parallel: it needs a rate.
func TestRollingRestart(t *testing.T) {
	agent := consul.Start(t)
	var instances []*instance
	for n := range 3 {
		instances = append(instances, startInstance(t, agent, "greeter", strconv.Itoa(n), instanceOptions{inbound: harness.FreeAddress(t)}))
	}
	for _, i := range instances {
		i.awaitHealth(t, agent, api.HealthPassing)
	}

	l := load.Start(t, dialGreeter(t, startClient(t, agent, nil).Outbound), restartLoad)
	for n, old := range instances {
		old.takesTraffic(t)
		old.stopSidecar(t)
		old.awaitHealth(t, agent, "")
		old.app.stop()
		l.Check(t, "instance "+old.app.name+" goes")

		instances[n] = startInstance(t, agent, "greeter", old.app.name, instanceOptions{address: old.app.address, inbound: old.sidecar.Inbound})
		passing := instances[n].awaitHealth(t, agent, api.HealthPassing)
		instances[n].takesTraffic(t)
		within(t, "an instance that is back takes traffic", passing, time.Now())
		l.Check(t, "instance "+old.app.name+" comes back")
	}
	l.End(t)
}

// All change places: the new instances come up elsewhere before the old ones go,
// as schedulers do it.
func TestReplacementByNewInstances(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	start := func(generation string) (started []*instance) {
		for n := range 3 {
			started = append(started, startInstance(t, agent, "greeter", generation+strconv.Itoa(n), instanceOptions{}))
		}
		for _, i := range started {
			i.awaitHealth(t, agent, api.HealthPassing)
		}

		return started
	}

	before := start("old")
	l := load.Start(t, dialGreeter(t, startClient(t, agent, nil).Outbound), usualLoad)
	l.More(t, time.Second)
	after := start("new")
	for _, i := range after {
		i.takesTraffic(t)
	}
	for _, i := range before {
		i.stopSidecar(t)
		i.app.stop()
	}
	l.More(t, time.Second)
	l.End(t)
}
