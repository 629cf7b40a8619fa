package consul

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

func TestRegisterDiscoverFailDeregister(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	source, log := newSource(t, agent, consul.Config{})
	first, second, inbound := startApp(t), startApp(t), startApp(t)

	greeter := watch(t, source, "greeter")
	greeter.await(t, "there is none", isNil)

	registrar := register(t, source, first.registration(beside(inbound.address())))
	await(t, registrar)
	passing(t, agent, "greeter", 1)
	quick(t, "discovery after passing", greeter.await(t, "the sidecar is found", has(inbound.port)))
	endpoint := greeter.last.Endpoints[0]
	if endpoint.Weight != 3 || endpoint.Meta["version"] != "v1" || !slices.Equal(endpoint.Tags, []string{"blue"}) || !strings.HasPrefix(endpoint.ID, "node1/greeter-") {
		t.Errorf("endpoint: %+v", endpoint)
	}

	other := register(t, source, second.registration())
	passing(t, agent, "greeter", 2)
	both := []int{inbound.port, second.port}
	slices.Sort(both)
	quick(t, "discovery of a second, without a sidecar", greeter.await(t, "both are found", has(both...)))

	// Health turns critical, and well again.
	second.serving(false)
	passing(t, agent, "greeter", 1)
	quick(t, "turning critical", greeter.await(t, "one is gone", has(inbound.port)))
	second.serving(true)
	passing(t, agent, "greeter", 2)
	quick(t, "being well again", greeter.await(t, "both are found", has(both...)))

	// An inbound that accepts nothing takes its app with it: nobody goes past it.
	inbound.server.Stop()
	greeter.await(t, "the one whose inbound is down is gone", has(second.port))
	greeter.drain(func(s *registry.Service) {
		if slices.Contains(portsOf(s), first.port) {
			t.Errorf("the app was dialled past its sidecar: %+v", s)
		}
	})

	if err := other.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := registrar.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	greeter.await(t, "all are gone", isNil)
	services, err := agent.Client.Agent().Services()
	if err != nil || len(services) != 0 {
		t.Errorf("left at the agent: %v, %v", services, err)
	}
	if warnings := log.with("level=WARN"); len(warnings) > 0 {
		t.Errorf("logged: %s", strings.Join(warnings, "\n"))
	}
}

// A sidecar and its app come and go together: who watches never sees the app
// without it.
func TestAppIsNeverDialledPastItsSidecar(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	source, _ := newSource(t, agent, consul.Config{})
	app, inbound := startApp(t), startApp(t)
	greeter := watch(t, source, "greeter")

	for range 5 {
		registrar := register(t, source, app.registration(beside(inbound.address())))
		greeter.await(t, "it is there", has(inbound.port))
		if err := registrar.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		greeter.await(t, "it is gone", func(s *registry.Service) bool {
			if s != nil && slices.Contains(portsOf(s), app.port) {
				t.Fatalf("the app was dialled itself: %+v", s)
			}

			return s == nil
		})
	}
}

func TestFindByGRPCService(t *testing.T) {
	t.Parallel()
	agent := Start(t)
	source, _ := newSource(t, agent, consul.Config{})
	names := []string{"helloworld.Greeter", "grpc.health.v1.Health"}
	for i := range 30 { // more than one meta value holds
		names = append(names, fmt.Sprintf("shop.v%d.%s", i, strings.Repeat("x", 60)))
	}
	app, inbound := startApp(t), startApp(t)
	await(t, register(t, source, app.registration(beside(inbound.address()), func(r *consul.Registration) { r.GRPC = names })))
	await(t, register(t, source, startApp(t).registration(func(r *consul.Registration) {
		r.Name, r.GRPC = "farewell", []string{"farewell.Farewell", "helloworld.Greeter2", "a.helloworld.Greeter"}
	})))
	await(t, register(t, source, startApp(t).registration(func(r *consul.Registration) { r.Name, r.GRPC = "mute", nil })))

	for name, wanted := range map[string]string{
		"helloworld.Greeter":    "[greeter]",
		names[len(names)-1]:     "[greeter]",
		"helloworld.Greeter2":   "[farewell]",
		"a.helloworld.Greeter":  "[farewell]",
		"helloworld.Greet":      "[]",
		"elloworld.Greeter":     "[]",
		"helloworldXGreeter":    "[]",
		"grpc.health.v1.Health": "[]",
		"nobody.Nothing":        "[]",
	} {
		var got []string
		var err error
		// The agent tells the servers in its own time.
		if wanted != "[]" {
			Eventually(t, name+" is found", func() bool {
				got, err = source.Answering(t.Context(), name)

				return err == nil && len(got) > 0
			})
		} else {
			got, err = source.Answering(t.Context(), name)
		}
		if err != nil || fmt.Sprint(got) != wanted {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, wanted)
		}
	}
	services, err := source.Services(t.Context())
	if err != nil || !slices.Equal(services, []string{"farewell", "greeter", "mute"}) {
		t.Errorf("services: %v, %v", services, err)
	}

	greeter := watch(t, source, "greeter")
	greeter.await(t, "it says what it answers", func(s *registry.Service) bool { return s != nil && len(s.GRPC) == len(names)-1 })
}
