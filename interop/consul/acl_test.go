package consul

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

const greeterRead = `service "greeter" { policy = "read" } service "greeter-sidecar-proxy" { policy = "read" } node_prefix "" { policy = "read" }`

func TestTokens(t *testing.T) {
	t.Parallel()
	agent := Start(t, WithACLs())
	app, inbound := startApp(t), startApp(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	awaitLine := func(log *log, text string) {
		t.Helper()
		Eventually(t, "the log says "+text, func() bool { return len(log.with(text)) > 0 })
	}

	start := time.Now()
	// A token that Consul does not know.
	write("00000000-1111-2222-3333-444444444444")
	source, log := newSource(t, agent, consul.Config{TokenFile: file})
	registrar := register(t, source, app.registration(beside(inbound.address())))
	greeter := watch(t, source, "greeter")
	awaitLine(log, "the token is unknown to Consul")

	t.Logf("%v: unknown token seen", time.Since(start))
	// One that may do too little: the error names what is missing.
	write(agent.Token(t, `service "greeter" { policy = "write" }`))
	awaitLine(log, `service \"greeter-sidecar-proxy\" { policy = \"write\" }`)

	t.Logf("%v: weak token seen", time.Since(start))
	// One that may register.
	write(agent.Token(t, `service "greeter" { policy = "write" } service "greeter-sidecar-proxy" { policy = "write" }`))
	await(t, registrar)
	awaitLine(log, `node_prefix \"\" { policy = \"read\" }`)
	if greeter.drain(func(*registry.Service) {}); greeter.last != nil {
		t.Errorf("something was found without the permission: %+v", greeter.last)
	}

	t.Logf("%v: registered", time.Since(start))
	// And one that may look, all without a restart.
	write(agent.Token(t, `service "greeter" { policy = "write" } service "greeter-sidecar-proxy" { policy = "write" } node_prefix "" { policy = "read" }`))
	greeter.await(t, "it is found", has(inbound.port))

	t.Logf("%v: found", time.Since(start))
	// The permission is taken away again: what is known stays.
	write(agent.Token(t, `service "farewell" { policy = "read" }`))
	greeter.await(t, "it is stale", isStale(inbound.port))

	t.Logf("%v: stale", time.Since(start))
	write(agent.Token(t, `service "greeter" { policy = "write" } service "greeter-sidecar-proxy" { policy = "write" } node_prefix "" { policy = "read" }`))
	greeter.await(t, "it is fresh", has(inbound.port))
	greeter.drain(func(s *registry.Service) {
		if s == nil || len(s.Endpoints) != 1 {
			t.Errorf("lost on the way: %+v", s)
		}
	})
}

func TestReadOnlyTokenIsEnoughToFind(t *testing.T) {
	t.Parallel()
	agent := Start(t, WithACLs())
	app, inbound := startApp(t), startApp(t)
	owner, _ := newSource(t, agent, consul.Config{Token: ManagementToken})
	await(t, register(t, owner, app.registration(beside(inbound.address()), func(r *consul.Registration) { r.GRPC = []string{"helloworld.Greeter"} })))

	source, _ := newSource(t, agent, consul.Config{Token: agent.Token(t, greeterRead)})
	greeter := watch(t, source, "greeter")
	greeter.await(t, "it is found", has(inbound.port))
	names, err := source.Answering(t.Context(), "helloworld.Greeter")
	if err != nil || !slices.Equal(names, []string{"greeter"}) {
		t.Errorf("answering: %v, %v", names, err)
	}

	// Without the sidecar's permission the app is not dialled past it.
	half, log := newSource(t, agent, consul.Config{Token: agent.Token(t, `service "greeter" { policy = "read" } node_prefix "" { policy = "read" }`)})
	partly := watch(t, half, "greeter")
	Eventually(t, "the log names the rule", func() bool {
		return len(log.with(`service \"greeter-sidecar-proxy\" { policy = \"read\" }`)) > 0
	})
	partly.drain(func(s *registry.Service) { t.Errorf("handed over: %+v", s) })
}
