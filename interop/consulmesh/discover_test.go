package consulmesh

import (
	"math"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/load"
)

// Instances come one after the other, and share the load by their weights; one
// that is told to end leaves before it ends.
func TestInstancesComeAndGo(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	first := startInstance(t, agent, "greeter", "first", instanceOptions{})
	first.awaitHealth(t, agent, api.HealthPassing)

	l := load.Start(t, dialGreeter(t, startClient(t, agent, nil).Outbound), usualLoad)
	first.takesTraffic(t)

	var last *instance
	for name, weight := range map[string]int{"light": 1, "heavy": 2} {
		last = startInstance(t, agent, "greeter", name, instanceOptions{service: map[string]any{"weights": map[string]int{"passing": weight}}})
		passing := last.awaitHealth(t, agent, api.HealthPassing)
		last.takesTraffic(t)
		within(t, "a new instance takes traffic", passing, time.Now())
		l.Check(t, "an instance comes")
	}

	wanted := map[string]float64{"first": 0.25, "light": 0.25, "heavy": 0.5}
	// Those of before are under way for a while on a slow machine.
	consul.Eventually(t, "the shares are as the weights", func() bool {
		before := l.Shares()
		l.More(t, 2*time.Second)
		shares, total := l.Shares(), 0
		for name := range shares {
			shares[name] -= before[name]
			total += shares[name]
		}
		t.Logf("of %d RPCs: %v", total, shares)
		for name, want := range wanted {
			if math.Abs(float64(shares[name])/float64(total)-want) > 0.05 {
				return false
			}
		}

		return true
	})

	told := time.Now()
	last.stopSidecar(t)
	t.Logf("a sidecar ends %v after SIGTERM", time.Since(told).Round(time.Millisecond))
	within(t, "traffic leaves an instance that is told to end", told, last.fallsSilent(t))
	for _, id := range []string{last.id(t), last.sidecarID(t)} {
		if registered(t, agent, id) != nil {
			t.Errorf("%s is still registered", id)
		}
	}
	l.End(t)
}
