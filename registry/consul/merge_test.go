package consul

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/consul/api"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/registry"
)

func TestMerge(t *testing.T) {
	t.Parallel()
	critical := func(e *api.ServiceEntry) {
		e.Checks = api.HealthChecks{checkOf(e.Service.ID, api.HealthCritical, "refused")}
	}
	warning := func(e *api.ServiceEntry) { e.Checks = api.HealthChecks{checkOf(e.Service.ID, api.HealthWarning, "hm")} }
	unrun := func(e *api.ServiceEntry) { e.Checks = api.HealthChecks{checkOf(e.Service.ID, api.HealthCritical, "")} }
	weights := func(passing, warning int) func(*api.ServiceEntry) {
		return func(e *api.ServiceEntry) { e.Service.Weights = api.AgentWeights{Passing: passing, Warning: warning} }
	}
	meta := func(key, value string) func(*api.ServiceEntry) {
		return func(e *api.ServiceEntry) { e.Service.Meta = map[string]string{key: value} }
	}
	sidecarMeta := func(value string) func(*api.ServiceEntry) {
		return func(e *api.ServiceEntry) { e.Service.Meta = map[string]string{metaPillion: value} }
	}
	type entries = []*api.ServiceEntry

	for _, test := range []struct {
		name           string
		apps, sidecars entries
		requireSidecar bool
		known          []string
		endpoints      string // "address*weight" of each
	}{
		{name: "an app alone", apps: entries{appEntry("a", 1)}, endpoints: "[10.0.0.1:1*1]"},
		{name: "an app alone where a sidecar is required", apps: entries{appEntry("a", 1)}, requireSidecar: true, endpoints: "[]"},
		{name: "its sidecar", apps: entries{appEntry("a", 1)}, sidecars: entries{sidecarEntry("a", 2)}, endpoints: "[10.0.0.1:2*1]"},
		{name: "its sidecar, required", apps: entries{appEntry("a", 1)}, sidecars: entries{sidecarEntry("a", 2)}, requireSidecar: true, endpoints: "[10.0.0.1:2*1]"},
		{name: "a sidecar known by its id", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), func(e *api.ServiceEntry) { e.Service.Proxy = nil })}, endpoints: "[10.0.0.1:2*1]"},
		{name: "a sidecar that wants mTLS", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), sidecarMeta("mtls"))}, endpoints: "[10.0.0.1:2*1]"},
		{name: "a sidecar that speaks something new", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), sidecarMeta("quic"))}, endpoints: "[10.0.0.1:2*1]"},
		{name: "the same, required", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), sidecarMeta("quic"))}, requireSidecar: true, endpoints: "[10.0.0.1:2*1]"},
		{name: "Envoy", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), func(e *api.ServiceEntry) { e.Service.Meta = nil })}, endpoints: "[10.0.0.1:1*1]"},
		{name: "Envoy and Pillion", apps: entries{appEntry("a", 1)}, sidecars: entries{
			with(sidecarEntry("a", 3), func(e *api.ServiceEntry) { e.Service.Meta = nil; e.Service.ID = "0-envoy" }), sidecarEntry("a", 2),
		}, endpoints: "[10.0.0.1:2*1]"},
		{name: "a sidecar without its app", apps: entries{appEntry("a", 1)}, sidecars: entries{sidecarEntry("b", 2)}, endpoints: "[10.0.0.1:1*1]"},
		{name: "a sidecar of another node", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), func(e *api.ServiceEntry) { e.Node.Node = "elsewhere" })}, endpoints: "[10.0.0.1:1*1]"},
		{name: "something native, or a gateway", apps: entries{appEntry("a", 1)}, sidecars: entries{appEntry("a", 2), with(sidecarEntry("a", 3), func(e *api.ServiceEntry) { e.Service.Kind = api.ServiceKindTerminatingGateway })}, endpoints: "[10.0.0.1:1*1]"},
		{name: "a critical app", apps: entries{with(appEntry("a", 1), critical), appEntry("b", 2)}, endpoints: "[10.0.0.1:2*1]"},
		{name: "a critical app, its sidecar well", apps: entries{with(appEntry("a", 1), critical)}, sidecars: entries{sidecarEntry("a", 2)}, endpoints: "[]"},
		{name: "a critical sidecar is not passed by", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), critical)}, endpoints: "[]"},
		{name: "a lagging alias check", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{{CheckID: "a-sidecar-proxy:alias", ServiceID: "a-sidecar-proxy", Status: api.HealthCritical, Type: "alias", Output: "gone"}}
		})}, endpoints: "[10.0.0.1:2*1]"},
		{name: "a failed node", apps: entries{with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Checks = append(e.Checks, &api.HealthCheck{CheckID: "serfHealth", Status: api.HealthCritical})
		})}, known: []string{"node-a/a"}, endpoints: "[]"},
		{name: "maintenance", apps: entries{with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Checks = append(e.Checks, &api.HealthCheck{CheckID: "_service_maintenance:a", ServiceID: "a", Status: api.HealthCritical, Type: "maintenance"})
		})}, known: []string{"node-a/a"}, endpoints: "[]"},
		{name: "not run, known", apps: entries{with(appEntry("a", 1), unrun)}, known: []string{"node-a/a"}, endpoints: "[10.0.0.1:1*1]"},
		{name: "not run, new", apps: entries{with(appEntry("a", 1), unrun)}, endpoints: "[]"},
		{name: "its sidecar not run, known", apps: entries{appEntry("a", 1)}, sidecars: entries{with(sidecarEntry("a", 2), unrun)}, known: []string{"node-a/a"}, endpoints: "[10.0.0.1:2*1]"},
		{name: "weights", apps: entries{with(appEntry("a", 1), weights(5, 2)), with(with(appEntry("b", 2), weights(5, 2)), warning)}, endpoints: "[10.0.0.1:1*5 10.0.0.1:2*2]"},
		{name: "a warning weight of 0", apps: entries{appEntry("a", 1), with(with(appEntry("b", 2), weights(5, 0)), warning)}, endpoints: "[10.0.0.1:1*1]"},
		{name: "nobody else", apps: entries{with(with(appEntry("b", 2), weights(5, 0)), warning)}, endpoints: "[10.0.0.1:2*1]"},
		{name: "weights not said", apps: entries{with(appEntry("a", 1), weights(0, 0)), with(with(appEntry("b", 2), weights(0, 0)), warning)}, endpoints: "[10.0.0.1:1*1 10.0.0.1:2*1]"},
		{name: "mad weights", apps: entries{with(appEntry("a", 1), weights(-5, -2)), with(appEntry("b", 2), weights(1<<40, 1))}, endpoints: "[10.0.0.1:1*1 10.0.0.1:2*65535]"},
		{name: "its own address", apps: entries{with(appEntry("a", 1), func(e *api.ServiceEntry) { e.Service.Address = "fd00::1" })}, endpoints: "[[fd00::1]:1*1]"},
		{name: "a Unix socket", apps: entries{with(appEntry("a", 0), func(e *api.ServiceEntry) { e.Service.SocketPath = "/run/a.sock" })}, endpoints: "[unix:///run/a.sock*1]"},
		{name: "a relative Unix socket", apps: entries{with(appEntry("a", 0), func(e *api.ServiceEntry) { e.Service.SocketPath = "a.sock" })}, endpoints: "[]"},
		{name: "no port", apps: entries{appEntry("a", 0), appEntry("b", 70000)}, endpoints: "[]"},
		{name: "no port, but a sidecar", apps: entries{appEntry("a", 0)}, sidecars: entries{sidecarEntry("a", 2)}, endpoints: "[10.0.0.1:2*1]"},
		{name: "nonsense", apps: entries{nil, {}, {Service: &api.AgentService{}}, appEntry("a", 1), {Service: &api.AgentService{ID: "x", Port: 3}, Checks: api.HealthChecks{nil}}}, endpoints: "[10.0.0.1:1*1]"},
		{name: "twice", apps: entries{appEntry("a", 1), appEntry("a", 1)}, endpoints: "[10.0.0.1:1*1]"},
		{name: "same id on two nodes", apps: entries{appEntry("a", 1), with(appEntry("a", 2), func(e *api.ServiceEntry) { e.Node.Node = "other" })}, endpoints: "[10.0.0.1:1*1 10.0.0.1:2*1]"},
		{name: "an own meta key", apps: entries{with(appEntry("a", 1), meta(metaPillion, speaksPlain))}, endpoints: "[10.0.0.1:1*1]"},
	} {
		made := merge("greeter", instancesOf(test.apps, standard.Instances, nil), instancesOf(test.sidecars, standard.Instances, nil), reach{requireSidecar: test.requireSidecar}, func(id string) bool {
			return slices.Contains(test.known, id)
		})
		got := []string{}
		for _, endpoint := range made.service.Endpoints {
			got = append(got, fmt.Sprintf("%s*%d", endpoint.Address, endpoint.Weight))
		}
		if fmt.Sprint(got) != test.endpoints {
			t.Errorf("%s: got %v, want %s", test.name, got, test.endpoints)
		}
	}
}

func TestMergeTakesWhatTheAppSays(t *testing.T) {
	t.Parallel()
	app := with(appEntry("a", 1), func(e *api.ServiceEntry) {
		e.Service.Meta = map[string]string{"version": "v2", metaGRPC: "b.B, a.A", metaGRPC + "-2": "c.C"}
		e.Service.Tags = []string{"z", "y"}
	})
	made := merge("greeter", instancesOf([]*api.ServiceEntry{app}, standard.Instances, nil), instancesOf([]*api.ServiceEntry{sidecarEntry("a", 2)}, standard.Instances, nil), reach{}, nil)
	endpoint := made.service.Endpoints[0]
	want(t, "id", endpoint.ID, "node-a/a")
	want(t, "version", endpoint.Meta["version"], "v2")
	want(t, "tags", endpoint.Tags, []string{"z", "y"})
	want(t, "gRPC services", made.service.GRPC, []string{"a.A", "b.B", "c.C"})
	if merge("greeter", nil, instancesOf([]*api.ServiceEntry{sidecarEntry("a", 2)}, standard.Instances, nil), reach{}, nil).service != nil {
		t.Error("a sidecar alone makes a service")
	}
}

// Whatever an agent answers, what is handed over keeps the contract of a registry.
func FuzzMerge(f *testing.F) {
	for _, entries := range [][]*api.ServiceEntry{{appEntry("a", 1)}, {appEntry("a", 1), sidecarEntry("a", 2)}} {
		text, err := json.Marshal(entries)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, text)
	}
	f.Add([]byte(`[null,{"Node":null,"Service":{"ID":"x"},"Checks":[null,{"Status":"odd"}]}]`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, apps, sidecars []byte) {
		var a, s []*api.ServiceEntry
		if json.Unmarshal(apps, &a) != nil || json.Unmarshal(sidecars, &s) != nil {
			return
		}
		made := merge("greeter", instancesOf(a, standard.Instances, nil), instancesOf(s, standard.Instances, nil), reach{}, func(string) bool { return true })
		if made.service == nil {
			return
		}
		ids := map[string]bool{}
		for i, endpoint := range made.service.Endpoints {
			if ids[endpoint.ID] || endpoint.Weight < 1 {
				t.Fatalf("%+v", endpoint)
			}
			ids[endpoint.ID] = true
			if i > 0 && made.service.Endpoints[i-1].ID > endpoint.ID {
				t.Fatal("not in order")
			}
			if _, _, err := registry.ParseAddress(endpoint.Address); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		state := func() *registry.Service {
			return &registry.Service{
				Name: "greeter", GRPC: []string{"a.A"},
				Endpoints: []registry.Endpoint{{ID: "1", Address: "a:1", Weight: 1, Meta: map[string]string{"k": "v"}, Tags: []string{"t"}}},
			}
		}
		a, b := state(), state()
		if !same(a, b) {
			t.Fatal("equal states differ")
		}
		rapid.SampledFrom([]func(){
			func() { b.Stale = true },
			func() { b.GRPC = nil },
			func() { b.Endpoints[0].ID = "2" },
			func() { b.Endpoints[0].Address = "a:2" },
			func() { b.Endpoints[0].Weight = 2 },
			func() { b.Endpoints[0].Meta["k"] = "w" },
			func() { b.Endpoints[0].Tags = nil },
			func() { b.Endpoints[0].Security = registry.SecurityMTLS },
			func() { b.Endpoints[0].Identities = []string{"spiffe://{trust_domain}/x"} },
			func() { b.Endpoints[0].ServerName = "x" },
			func() { b.Endpoints = nil },
		}).Draw(t, "change")()
		if same(a, b) || same(a, nil) || same(nil, b) || !same(nil, nil) {
			t.Fatal("different states are the same")
		}
	})
}
