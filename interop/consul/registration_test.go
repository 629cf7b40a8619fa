package consul

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

func TestForgottenIsRegisteredAgain(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	source, _ := newSource(t, agent, consul.Config{})
	app, inbound := startApp(t), startApp(t)
	registrar := register(t, source, app.registration(beside(inbound.address())))
	await(t, registrar)
	passing(t, agent, "greeter", 1)
	id := registrar.Status().ID

	for _, forgotten := range []string{id, id + "-sidecar-proxy"} {
		if err := agent.Client.Agent().ServiceDeregister(forgotten); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		Eventually(t, forgotten+" is registered again", func() bool {
			services, err := agent.Client.Agent().Services()

			return err == nil && services[forgotten] != nil
		})
		t.Logf("%s: registered again after %v", forgotten, time.Since(start))
	}

	// Once it is as it should be, it is let be: whatever Consul makes of it.
	const times = 3
	Eventually(t, "the registrar is done", func() bool { return registrar.Status().Times == times })
	service, _, err := agent.Client.Agent().Service(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = agent.Client.Agent().Service(id, (&api.QueryOptions{WaitHash: service.ContentHash, WaitTime: 12 * time.Second}).WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if now := registrar.Status().Times; now != times {
		t.Errorf("registered %d times, then %d", times, now)
	}
}

// Two processes with the same id, one after the other, as in a restart.
func TestRestartWithTheSameID(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	source, _ := newSource(t, agent, consul.Config{})
	app := startApp(t)
	old := register(t, source, app.registration())
	await(t, old)
	fresh := register(t, source, app.registration(func(r *consul.Registration) { r.Meta = map[string]string{"version": "v2"} }))
	await(t, fresh)
	if err := old.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	greeter := watch(t, source, "greeter")
	greeter.await(t, "the new one alone", func(s *registry.Service) bool {
		return has(app.port)(s) && s.Endpoints[0].Meta["version"] == "v2"
	})
}
