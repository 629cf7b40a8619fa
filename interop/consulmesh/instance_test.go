package consulmesh

import (
	"encoding/json"
	"maps"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// instance is an app with the sidecar beside it, which registers it.
type instance struct {
	service string
	app     *app
	sidecar *harness.Sidecar
}

// instanceOptions say what an instance is like; the zero value is fit for use.
type instanceOptions struct {
	answers string // a gRPC service; the default is testService
	address string // of the app
	inbound string
	service map[string]any // further fields of the bootstrap's service
	consul  map[string]any // further fields of the bootstrap's registry.consul
}

// consulRegistry is a bootstrap's registry.
func consulRegistry(address string, further map[string]any) map[string]any {
	consul := map[string]any{"address": address}
	maps.Copy(consul, further)

	return map[string]any{"consul": consul}
}

// startInstance starts an app and the sidecar beside it, and does not wait until
// they are registered.
func startInstance(t testing.TB, agent *consul.Agent, service, name string, options instanceOptions) *instance {
	t.Helper()

	if options.answers == "" {
		options.answers = testService
	}
	local := startApp(t, name, options.address, options.answers)

	return &instance{service: service, app: local, sidecar: startSidecar(t, agent, service, local, options)}
}

// startSidecar starts a sidecar beside an app.
func startSidecar(t testing.TB, agent *consul.Agent, service string, local *app, options instanceOptions) *harness.Sidecar {
	t.Helper()

	_, text, err := net.SplitHostPort(local.address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	// Consul looks once a second at most.
	described := map[string]any{"name": service, "port": port, "health_check": map[string]any{"interval": "1s"}}
	maps.Copy(described, options.service)

	return harness.StartSidecar(t, harness.Config{
		Service: service, App: local.address, InboundListen: options.inbound,
		Settings: map[string]any{"service": described, "registry": consulRegistry(agent.Address, options.consul)},
	})
}

// startClient starts the sidecar beside a client.
func startClient(t testing.TB, agent *consul.Agent, consul map[string]any) *harness.Sidecar {
	t.Helper()

	return harness.StartSidecar(t, harness.Config{
		Outbound: true, Settings: map[string]any{"registry": consulRegistry(agent.Address, consul)},
	})
}

// id is what Consul knows the instance by.
func (i *instance) id(t testing.TB) string {
	t.Helper()

	_, port, err := net.SplitHostPort(i.app.address)
	if err != nil {
		t.Fatal(err)
	}

	return i.service + "-" + port
}

// sidecarID is what Consul knows the sidecar by.
func (i *instance) sidecarID(t testing.TB) string {
	t.Helper()

	return i.id(t) + "-sidecar-proxy"
}

// stopSidecar ends the sidecar as a service manager does.
func (i *instance) stopSidecar(t testing.TB) {
	t.Helper()

	i.sidecar.Signal(t, syscall.SIGTERM)
	if code := i.sidecar.Wait(t); code != 0 {
		t.Errorf("the sidecar of instance %s ended with %d", i.app.name, code)
	}
}

// takesTraffic waits until the app is called once more.
func (i *instance) takesTraffic(t testing.TB) {
	t.Helper()

	before := i.app.calls.Load()
	consul.Eventually(t, "instance "+i.app.name+" takes traffic", func() bool { return i.app.calls.Load() > before })
}

// fallsSilent waits until the app has not been called for a while, and returns
// when it was called last.
func (i *instance) fallsSilent(t testing.TB) time.Time {
	t.Helper()

	const silence = time.Second

	var last time.Time
	consul.Eventually(t, "instance "+i.app.name+" is called no more", func() bool {
		last = time.Unix(0, i.app.last.Load())

		return time.Since(last) > silence
	})

	return last
}

// awaitHealth waits until Consul says the instance to be of that health
// ("passing", "critical"), or "" that there is no such instance, and returns when
// it first did.
func (i *instance) awaitHealth(t testing.TB, agent *consul.Agent, want string) time.Time {
	t.Helper()

	id := i.id(t)
	deadline := time.Now().Add(patience)
	for index := uint64(0); time.Now().Before(deadline); {
		entries, meta, err := agent.Client.Health().Service(i.service, "", false, &api.QueryOptions{WaitIndex: index, WaitTime: time.Second})
		if err != nil {
			t.Fatalf("health of %s: %v", i.service, err)
		}
		now := ""
		for _, entry := range entries {
			if entry.Service.ID == id {
				now = entry.Checks.AggregatedStatus()
			}
		}
		if now == want {
			return time.Now()
		}
		index = meta.LastIndex
	}
	t.Fatalf("instance %s is not %q in Consul within %v", id, want, patience)

	return time.Time{}
}

// endpoints is what /endpoints shows of one service.
type endpoints struct {
	Name      string             `json:"name"`
	Side      string             `json:"side"`
	Stale     bool               `json:"stale"`
	GRPC      []string           `json:"grpc"`
	Instances []endpointInstance `json:"instances"`
}

type endpointInstance struct {
	ID      string            `json:"id"`
	Address string            `json:"address"`
	Weight  int               `json:"weight"`
	Meta    map[string]string `json:"meta"`
	Tags    []string          `json:"tags"`
}

// knows returns what a sidecar knows of a service, nil for nothing.
func knows(t testing.TB, sidecar *harness.Sidecar, service string) *endpoints {
	t.Helper()

	var page struct {
		Services []*endpoints `json:"services"`
	}
	if err := json.Unmarshal([]byte(sidecar.Get(t, "/endpoints?service="+service)), &page); err != nil {
		t.Fatalf("/endpoints: %v", err)
	}
	if len(page.Services) == 0 {
		return nil
	}

	return page.Services[0]
}

// source is what /config shows of where services come from.
type source struct {
	Kind         string    `json:"kind"`
	Location     string    `json:"location"`
	LastSuccess  time.Time `json:"last_success"`
	Error        string    `json:"error"`
	FailingSince time.Time `json:"failing_since"`
}

func sourceOf(t testing.TB, sidecar *harness.Sidecar) source {
	t.Helper()

	var page struct {
		Sources []source `json:"sources"`
	}
	if err := json.Unmarshal([]byte(sidecar.Get(t, "/config")), &page); err != nil || len(page.Sources) != 1 {
		t.Fatalf("/config: %v, %d sources", err, len(page.Sources))
	}

	return page.Sources[0]
}
