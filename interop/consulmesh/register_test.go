package consulmesh

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
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
	loads := map[string]*load{}
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
		loads[authority] = startLoad(t, dial(t, client.Outbound, options...), 50)
	}
	for authority, l := range loads {
		l.more(t, 0)
		if answered := l.end(t); len(answered) != 1 || answered["greeter"] == 0 {
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
