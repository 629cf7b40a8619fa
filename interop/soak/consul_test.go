package soak

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/pillion-proxy/pillion/interop/consul"
)

// consulService is a service whose instances are registered, flip and vanish.
const consulService = "consul-churn"

// startConsul starts an agent, or returns nil where the tool is not there.
func startConsul(t testing.TB) *consul.Agent {
	t.Helper()

	tools := os.Getenv("PILLION_TOOLS")
	if _, err := os.Stat(filepath.Join(tools, "consul")); tools == "" || err != nil {
		t.Log("without Consul: it is not in the folder that PILLION_TOOLS names")

		return nil
	}

	return consul.Start(t)
}

func consulRegistry(agent *consul.Agent) map[string]any {
	return map[string]any{"consul": map[string]any{"address": agent.Address, "idle_timeout": "3s"}}
}

// registered is a bootstrap's service that nothing makes unhealthy.
func registered(t testing.TB, name, address string) map[string]any {
	t.Helper()

	return map[string]any{"name": name, "port": portOf(t, address), "health_check": map[string]any{"disabled": true}}
}

func portOf(t testing.TB, address string) int {
	t.Helper()

	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}

	return port
}

// churnConsul registers instances without a sidecar, lets their health flip,
// takes them away, and now and then restarts the agent as a crash does.
func churnConsul(a *acting) {
	if a.agent == nil {
		return
	}
	var ports []int
	for i := range 3 {
		ports = append(ports, portOf(a.s, startApp(a.s, "consul-"+strconv.Itoa(i), "", a.ledger).address))
	}
	client := a.agent.Client.Agent()
	defer func() {
		for _, port := range ports {
			_ = client.ServiceDeregister(consulService + "-" + strconv.Itoa(port))
		}
	}()
	restart := time.Now().Add(3 * time.Second)
	for a.pause(100*time.Millisecond, time.Second) {
		if time.Now().After(restart) {
			restart = time.Now().Add(20*time.Second + a.duration(20*time.Second))
			a.eventf("consul: the agent crashes")
			a.agent.Kill()
			a.pause(0, 3*time.Second)
			a.agent.Start(a.t) // it outlives the part

			continue
		}
		port := ports[a.IntN(len(ports))]
		id := consulService + "-" + strconv.Itoa(port)
		var err error
		switch what := a.IntN(4); what {
		case 0:
			a.eventf("consul: %s goes", id)
			err = client.ServiceDeregister(id)
		case 1, 2:
			health := api.HealthPassing
			if what == 2 {
				health = []string{api.HealthWarning, api.HealthCritical}[a.IntN(2)]
			}
			a.eventf("consul: %s is %s", id, health)
			err = client.ServiceRegister(&api.AgentServiceRegistration{
				ID: id, Name: consulService, Port: port, Address: "127.0.0.1",
				Check: &api.AgentServiceCheck{TTL: "1h", Status: health},
			})
		case 3:
			// Most of the time there is no such check.
			_ = client.UpdateTTL("service:"+id, "", api.HealthPassing)
		}
		if err != nil {
			// An instance that is not there cannot go; the agent itself is there.
			a.eventf("consul: %v", err)
		}
	}
}
