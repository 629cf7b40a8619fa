package consulmesh

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
)

// Somebody takes the only instance out of the agent, the app, its sidecar, or
// both: they are registered again within seconds, and no RPC fails meanwhile.
func TestRegistersAgainWhatTheAgentForgot(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	i := startInstance(t, agent, "greeter", "one", instanceOptions{})
	i.awaitHealth(t, agent, api.HealthPassing)
	awaitAnswer(t, agent, "greeter", testService)
	loads := startBothLoads(t, startClient(t, agent, nil).Outbound)
	i.takesTraffic(t)

	app, sidecar := i.id(t), i.sidecarID(t)
	for _, forgotten := range [][]string{{app, sidecar}, {sidecar}, {app}} {
		began := time.Now()
		for _, id := range forgotten {
			if err := agent.Client.Agent().ServiceDeregister(id); err != nil {
				t.Fatal(err)
			}
		}
		consul.Eventually(t, "it is registered again", func() bool {
			return registered(t, agent, app) != nil && registered(t, agent, sidecar) != nil
		})
		took := time.Since(began)
		t.Logf("without %v: registered again after %v", forgotten, took.Round(time.Millisecond))
		if took > patience/2 {
			t.Errorf("without %v: registered again after %v", forgotten, took)
		}
		i.awaitHealth(t, agent, api.HealthPassing)
		// Who answers a gRPC service is asked again every ten seconds.
		loads.more(t, 3*time.Second)
		loads.check(t, "the agent forgot the registration")
	}
	loads.end(t)
}
