package consulmesh

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// An app with a sidecar stands in Consul as two registrations that say the same.
func TestRegistersTheAppAndItsSidecar(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	i := startInstance(t, agent, "greeter", "one", instanceOptions{service: map[string]any{
		"meta": map[string]string{"version": "v1", "team": "blue"}, "tags": []string{"canary", "eu"},
		"weights": map[string]int{"passing": 3, "warning": 2},
	}})
	i.awaitHealth(t, agent, api.HealthPassing)

	var app, sidecar *api.AgentService
	// What the app answers may be learnt after the first registration.
	consul.Eventually(t, "both are registered, with what the app answers", func() bool {
		app, sidecar = registered(t, agent, i.id(t)), registered(t, agent, i.sidecarID(t))

		return app != nil && app.Meta["grpc-services"] != "" && sidecar != nil && sidecar.Meta["grpc-services"] != ""
	})

	meta := map[string]string{"version": "v1", "team": "blue", "grpc-services": testService}
	if app.Kind != api.ServiceKindTypical || app.Service != "greeter" || !maps.Equal(app.Meta, meta) {
		t.Errorf("the app stands there as %+v", app)
	}
	meta["pillion"] = "plain"
	if sidecar.Kind != api.ServiceKindConnectProxy || sidecar.Service != "greeter-sidecar-proxy" || !maps.Equal(sidecar.Meta, meta) {
		t.Errorf("the sidecar stands there as %+v", sidecar)
	}
	if proxy := sidecar.Proxy; proxy == nil || proxy.DestinationServiceID != app.ID || proxy.DestinationServiceName != "greeter" || proxy.LocalServicePort != app.Port {
		t.Errorf("the sidecar stands beside %+v", proxy)
	}
	for _, each := range []*api.AgentService{app, sidecar} {
		if !slices.Equal(each.Tags, []string{"canary", "eu"}) || each.Weights != (api.AgentWeights{Passing: 3, Warning: 2}) {
			t.Errorf("%s has tags %v and weights %+v", each.ID, each.Tags, each.Weights)
		}
	}
	if got, want := addressOf(sidecar), i.sidecar.Inbound; got != want {
		t.Errorf("the sidecar is registered at %s, want %s", got, want)
	}

	checks := map[string][]string{}
	found, err := agent.Client.Agent().Checks()
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range found {
		checks[check.ServiceID] = append(checks[check.ServiceID], check.Type)
	}
	for id, want := range map[string]string{app.ID: "grpc", sidecar.ID: "alias tcp"} {
		slices.Sort(checks[id])
		if got := strings.Join(checks[id], " "); got != want {
			t.Errorf("the checks of %s are %q, want %q", id, got, want)
		}
	}
}

// A client that knows nothing but the sidecar's address calls by what it calls;
// one that names a service gets that one, however it writes it.
func TestFindsTheDestination(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	greeter := startInstance(t, agent, "greeter", "greeter", instanceOptions{})
	other := startInstance(t, agent, "other", "other", instanceOptions{answers: benchmarkService})
	for service, i := range map[string]*instance{testService: greeter, benchmarkService: other} {
		i.awaitHealth(t, agent, api.HealthPassing)
		awaitAnswer(t, agent, i.service, service)
	}

	client := startClient(t, agent, nil)
	loads := map[string]*load.Load{}
	for _, authority := range []string{
		"", "localhost:15001", "127.0.0.1:15001", "unheard-of",
		"greeter", "greeter:443", "greeter.",
		"greeter.service.consul", "greeter.service.consul:8080", "greeter.virtual.consul",
		"greeter.service.dc1.consul", "greeter.dc1",
	} {
		var options []grpc.DialOption
		if authority != "" {
			options = append(options, grpc.WithAuthority(authority))
		}
		loads[authority] = load.Start(t, load.Dial(t, client.Outbound, options...), load.Options{PerSecond: 50})
	}
	for authority, l := range loads {
		l.More(t, 0)
		if answered := l.End(t).Answered; len(answered) != 1 || answered["greeter"] == 0 {
			t.Errorf("authority %q: answered by %v", authority, answered)
		}
	}

	// What was dialled is the sidecar beside the app, not the app.
	known := knows(t, client, "greeter")
	if known == nil || len(known.Instances) != 1 || known.Instances[0].Address != greeter.sidecar.Inbound {
		t.Errorf("the client's sidecar knows %+v, want the inbound at %s", known, greeter.sidecar.Inbound)
	}
	if handled := greeter.sidecar.Metric(t, "grpc_server_handled_total"); int64(handled) != greeter.app.calls.Load() {
		t.Errorf("%v RPCs through the inbound, %d at the app", handled, greeter.app.calls.Load())
	}
}

// An app comes up after its sidecar, as it does where both start together: it is
// found as soon as it is healthy, also by what it answers.
func TestTheAppComesAfterItsSidecar(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	started := time.Now()
	i := &instance{service: "greeter", app: &app{name: "late", address: harness.FreeAddress(t)}}
	i.sidecar = startSidecar(t, agent, "greeter", i.app, instanceOptions{})
	i.awaitHealth(t, agent, api.HealthCritical)
	conn := load.Dial(t, startClient(t, agent, nil).Outbound)
	// It has been asked for what it answers, in vain, several times.
	consul.Eventually(t, "nobody answers", func() bool {
		_, err := load.Who(t.Context(), conn)
		if status.Code(err) != codes.Unimplemented {
			t.Fatalf("before the app is there: %v", err)
		}

		return time.Since(started) > 5*time.Second
	})

	i.app = startApp(t, "late", i.app.address, testService)
	up := time.Now()
	passing := i.awaitHealth(t, agent, api.HealthPassing)
	awaitAnswer(t, agent, "greeter", testService)
	t.Logf("the app passes %v after it is up, and is known to answer %v after it", passing.Sub(up).Round(time.Millisecond), time.Since(up).Round(time.Millisecond))
	consul.Eventually(t, "RPCs end well", func() bool {
		_, err := load.Who(t.Context(), conn)

		return err == nil
	})
	took := time.Since(up)
	t.Logf("RPCs find it by what it answers %v after it is up", took.Round(time.Millisecond))
	// It is asked every other second, and that nobody answers is believed for as long.
	if took > 12*time.Second { // on a busy machine
		t.Errorf("RPCs find it by what it answers only %v after it is up", took)
	}
}

// Where an inbound listens is for Consul to say: on a port that was chosen, and on
// all addresses, of which the agent's own is told.
func TestTheInboundIsWhereConsulSays(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	for name, listen := range map[string]string{"any-port": "127.0.0.1:0", "any-address": "0.0.0.0:0"} {
		i := startInstance(t, agent, name, name, instanceOptions{inbound: listen})
		i.awaitHealth(t, agent, api.HealthPassing)
		client := startClient(t, agent, nil)
		if answered, err := load.Who(t.Context(), load.Dial(t, client.Outbound, grpc.WithAuthority(name))); err != nil || answered != name {
			t.Errorf("%s: answered by %q, %v", name, answered, err)
		}
		sidecar := registered(t, agent, i.sidecarID(t))
		if sidecar == nil || sidecar.Port == 0 {
			t.Fatalf("%s: registered as %+v", name, sidecar)
		}
		if known := knows(t, client, name); known.Instances[0].Address != addressOf(sidecar) {
			t.Errorf("%s: dialled at %s, registered at %s", name, known.Instances[0].Address, addressOf(sidecar))
		}
		if handled := i.sidecar.Metric(t, "grpc_server_handled_total"); handled != 1 {
			t.Errorf("%s: %v RPCs through the inbound", name, handled)
		}
	}
}
