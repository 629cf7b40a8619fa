package consul

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

func TestAgentKilledAndBack(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	dir := t.TempDir()
	source, log := newSource(t, agent, consul.Config{CacheDir: dir})
	app, inbound := startApp(t), startApp(t)
	registration := app.registration(beside(inbound.address()))
	registration.Check.Timeout = patience
	register(t, source, registration)
	greeter := watch(t, source, "greeter")
	greeter.await(t, "it is there", has(inbound.port))

	Eventually(t, "it is on disk", func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(files) != 1 {
			return false
		}
		content, err := os.ReadFile(files[0])

		return err == nil && strings.Contains(string(content), inbound.address())
	})

	agent.Kill()
	quick(t, "staleness after the agent died", greeter.await(t, "it is stale", isStale(inbound.port)))
	if status := source.Status(); status.Connected || !status.Services[0].Stale || status.LastError == "" {
		t.Errorf("status: %+v", status)
	}

	// A restart of the sidecar meanwhile: the disk says where to go.
	restarted, _ := newSource(t, agent, consul.Config{CacheDir: dir})
	fromDisk := watch(t, restarted, "greeter")
	quick(t, "the disk's answer", fromDisk.await(t, "the disk knows it", isStale(inbound.port)))

	// Consul shows checks as critical that have not run since the agent's start.
	// Here they take their time, longer than it takes to believe a real loss.
	answer := app.hold()
	agent.Start(t)
	greeter.await(t, "it is fresh", has(inbound.port))
	fromDisk.await(t, "it is fresh", has(inbound.port))
	check := func() string {
		checks, _, err := agent.Client.Health().Checks("greeter", nil)
		if err != nil || len(checks) != 1 {
			return ""
		}

		return checks[0].Status
	}
	Eventually(t, "the check is critical", func() bool { return check() == api.HealthCritical })
	witness := watch(t, source, "witness")
	gone := register(t, source, startApp(t).registration(func(r *consul.Registration) { r.Name, r.Check = "witness", nil }))
	witness.await(t, "it is there", func(s *registry.Service) bool { return s != nil && len(s.Endpoints) == 1 })
	if err := gone.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	witness.await(t, "its loss is believed", isNil)
	if now := check(); now != api.HealthCritical {
		t.Fatalf("the check is %s", now)
	}
	answer()
	Eventually(t, "the check has run", func() bool { return check() == api.HealthPassing })

	for _, w := range []*watching{greeter, fromDisk} {
		w.drain(func(s *registry.Service) {
			if s == nil || !slices.Equal(portsOf(s), []int{inbound.port}) {
				t.Errorf("traffic had nowhere to go, or elsewhere: %+v", s)
			}
		})
	}
	if lines := log.with("no answer from the agent"); len(lines) != 2 { // that it is away, and that this is over
		t.Errorf("want one line for the beginning and one for the end:\n%s", strings.Join(log.with(""), "\n"))
	}
}

// The agent allows fewer connections than we want: we want fewer.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	const services = 30
	agent := Start(t, WithLimits(map[string]any{"http_max_conns_per_client": 30}))
	for i := range services {
		err := agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: fmt.Sprintf("s%d", i), Port: 1000 + i})
		if err != nil {
			t.Fatal(err)
		}
	}
	source, log := newSource(t, agent, consul.Config{})
	var watches []*watching
	for i := range services {
		watches = append(watches, watch(t, source, fmt.Sprintf("s%d", i)))
	}
	for i, w := range watches {
		w.await(t, fmt.Sprintf("s%d is found", i), has(1000+i))
	}
	if len(log.with("limits us")) == 0 {
		t.Fatal("the agent's limit was not met")
	}
	Eventually(t, "nothing is stale", func() bool {
		return !slices.ContainsFunc(source.Status().Services, func(s consul.ServiceStatus) bool { return s.Stale })
	})
	status := source.Status()
	t.Logf("%d queries in %d slots", status.Queries, status.Slots)
	if status.Slots >= 30 {
		t.Errorf("%d slots", status.Slots)
	}
}
