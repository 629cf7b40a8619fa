package consul

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// soon is how long news from Consul may take.
const soon = 2 * time.Second

// log collects what a source logs.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.lines = append(l.lines, strings.TrimSpace(string(p)))

	return len(p), nil
}

// with are the lines that contain text.
func (l *log) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()

	return slices.DeleteFunc(slices.Clone(l.lines), func(line string) bool { return !strings.Contains(line, text) })
}

func newSource(t *testing.T, agent *Agent, cfg consul.Config) (*consul.Source, *log) {
	t.Helper()

	book := &log{}
	cfg.Address = agent.Address
	source, err := consul.New(cfg, consul.Deps{Log: slog.New(slog.NewTextHandler(book, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the source logged:\n%s", strings.Join(book.with(""), "\n"))
		}
	})
	t.Cleanup(source.CloseIdleConnections)

	return source, book
}

// watching is a watch and the states that it was handed.
type watching struct {
	states chan *registry.Service
	last   *registry.Service
	known  bool
	stop   func()
}

func watch(t *testing.T, source *consul.Source, service string) *watching {
	t.Helper()

	w := &watching{states: make(chan *registry.Service, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Watch(ctx, service, func(s *registry.Service) { w.states <- s })
	}()
	w.stop = func() { cancel(); <-done }
	t.Cleanup(w.stop)

	return w
}

// await waits for a state that holds, and returns how long it took.
func (w *watching) await(t *testing.T, what string, holds func(*registry.Service) bool) time.Duration {
	t.Helper()

	start := time.Now()
	timeout := time.After(patience)
	for !w.known || !holds(w.last) {
		select {
		case w.last = <-w.states:
			w.known = true
		case <-timeout:
			t.Fatalf("never: %s; the last state is %+v", what, w.last)
		}
	}

	return time.Since(start)
}

// drain takes the states that were handed over so far, and tells of each.
func (w *watching) drain(look func(*registry.Service)) {
	for {
		select {
		case w.last = <-w.states:
			w.known = true
			look(w.last)
		default:
			return
		}
	}
}

// has says whether a state is fresh and has just these ports, with 127.0.0.1.
func has(ports ...int) func(*registry.Service) bool {
	return func(s *registry.Service) bool { return s != nil && !s.Stale && slices.Equal(portsOf(s), ports) }
}

func portsOf(s *registry.Service) []int {
	var ports []int
	for _, endpoint := range s.Endpoints {
		var port int
		if _, err := fmt.Sscanf(endpoint.Address, "127.0.0.1:%d", &port); err == nil {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)

	return ports
}

func isStale(ports ...int) func(*registry.Service) bool {
	return func(s *registry.Service) bool { return s != nil && s.Stale && slices.Equal(portsOf(s), ports) }
}

func isNil(s *registry.Service) bool { return s == nil }

// app is a gRPC server that answers health checks.
type app struct {
	health *gatedHealth
	port   int
	server *grpc.Server
}

func startApp(t *testing.T) *app {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{health: &gatedHealth{Server: health.NewServer()}, port: listener.Addr().(*net.TCPAddr).Port, server: grpc.NewServer()}
	healthpb.RegisterHealthServer(a.server, a.health)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(func() { a.server.Stop(); <-done })

	return a
}

func (a *app) address() string { return fmt.Sprintf("127.0.0.1:%d", a.port) }

// gatedHealth answers health checks when it may.
type gatedHealth struct {
	*health.Server

	mu   sync.Mutex
	gate chan struct{} // nil: it may
}

func (g *gatedHealth) Check(ctx context.Context, request *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	g.mu.Lock()
	gate := g.gate
	g.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}

	return g.Server.Check(ctx, request)
}

// hold keeps health checks waiting until release is called.
func (a *app) hold() (release func()) {
	gate := make(chan struct{})
	a.health.mu.Lock()
	defer a.health.mu.Unlock()
	a.health.gate = gate

	return func() {
		a.health.mu.Lock()
		defer a.health.mu.Unlock()
		a.health.gate = nil
		close(gate)
	}
}

// serving says what the app answers to health checks from now on.
func (a *app) serving(yes bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus("", status)
}

// registration is the app's, with quick checks.
func (a *app) registration(change ...func(*consul.Registration)) consul.Registration {
	r := consul.Registration{
		Name: "greeter", Address: a.address(), Meta: map[string]string{"version": "v1"}, Tags: []string{"blue"}, Passing: 3,
		Check: &consul.Check{Interval: 200 * time.Millisecond, Timeout: time.Second, DeregisterAfter: time.Minute},
	}
	for _, c := range change {
		c(&r)
	}

	return r
}

// beside puts an inbound beside an app: whatever accepts connections.
func beside(address string) func(*consul.Registration) {
	return func(r *consul.Registration) { r.Sidecar = &consul.Sidecar{Address: address} }
}

func register(t *testing.T, source *consul.Source, registration consul.Registration) *consul.Registrar {
	t.Helper()

	registrar, err := source.Register(registration)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registrar.Close(context.Background()) })

	return registrar
}

func await(t *testing.T, registrar *consul.Registrar) {
	t.Helper()
	select {
	case <-registrar.Registered():
	case <-time.After(patience):
		t.Fatalf("not registered: %+v", registrar.Status())
	}
}

// passing is when Consul first says that so many instances of a service pass.
func passing(t *testing.T, agent *Agent, service string, wanted int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d instances of %s pass", wanted, service), func() bool {
		entries, _, err := agent.Client.Health().Service(service, "", true, nil)

		return err == nil && len(entries) == wanted
	})
}

func quick(t *testing.T, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, took)
	if took > soon {
		t.Errorf("%s took %v", what, took)
	}
}

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
	if greeter.drain(func(s *registry.Service) {}); greeter.last != nil {
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
