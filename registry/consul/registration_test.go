package consul

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

func planOf(t *testing.T, r Registration) *plan {
	t.Helper()
	p, err := r.plan()
	if err != nil {
		t.Fatal(err)
	}

	return p
}

func TestRegistrationOfAppAndSidecar(t *testing.T) {
	t.Parallel()
	p := planOf(t, Registration{
		Name: "greeter", Address: "127.0.0.1:50051", Meta: map[string]string{"version": "v1"}, Tags: []string{"blue"}, Passing: 3,
		Check:   &Check{Service: "helloworld.Greeter", Interval: time.Second, DeregisterAfter: time.Minute},
		Sidecar: &Sidecar{Address: "0.0.0.0:15006"},
	})
	meta, _ := joinGRPC([]string{"helloworld.Greeter"})
	made := p.registrations(meta)
	if len(made) != 2 || made[0].Kind != api.ServiceKindConnectProxy {
		t.Fatal("want the sidecar first")
	}
	got, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	wanted := `[{"Kind":"connect-proxy","ID":"greeter-50051-sidecar-proxy","Name":"greeter-sidecar-proxy","Tags":["blue"],"Port":15006,` +
		`"Meta":{"grpc-services":"helloworld.Greeter","pillion":"plain","version":"v1"},"Weights":{"Passing":3,"Warning":1},"Check":null,"Checks":[` +
		`{"CheckID":"greeter-50051-sidecar-proxy:alias","Name":"Health of greeter","AliasService":"greeter-50051"},` +
		`{"CheckID":"greeter-50051-sidecar-proxy:inbound","Name":"Inbound of greeter","Interval":"1s","Timeout":"1s","TCP":"127.0.0.1:15006","Status":"passing","DeregisterCriticalServiceAfter":"1m0s"}],` +
		`"Proxy":{"DestinationServiceName":"greeter","DestinationServiceID":"greeter-50051","LocalServicePort":50051,"MeshGateway":{},"Expose":{}}},` +
		`{"ID":"greeter-50051","Name":"greeter","Tags":["blue"],"Port":50051,"Meta":{"grpc-services":"helloworld.Greeter","version":"v1"},` +
		`"Weights":{"Passing":3,"Warning":1},"Check":null,"Checks":[{"CheckID":"greeter-50051:grpc","Name":"gRPC health of greeter","Interval":"1s","Timeout":"1s",` +
		`"GRPC":"127.0.0.1:50051/helloworld.Greeter","DeregisterCriticalServiceAfter":"1m0s"}]}]`
	if string(got) != wanted {
		t.Errorf("got\n%s\nwant\n%s", got, wanted)
	}
}

func TestRegisteredAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, app, inbound, check        string
		appIs, inboundIs                 string // host:port, or the socket
		grpcCheck, tcpCheck, registersAs string
	}{
		{"loopback app", "127.0.0.1:1", "", "", ":1", "", "127.0.0.1:1", "", "s-1"},
		{"loopback app, IPv6", "[::1]:1", "", "", ":1", "", "[::1]:1", "", "s-1"},
		{"any address", "0.0.0.0:1", "[::]:2", "", ":1", ":2", "127.0.0.1:1", "127.0.0.1:2", "s-1"},
		{"no host", ":1", ":2", "", ":1", ":2", "127.0.0.1:1", "127.0.0.1:2", "s-1"},
		{"addresses of their own", "10.0.0.1:1", "10.0.0.1:2", "", "10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:1", "10.0.0.1:2", "s-1"},
		{"a loopback inbound is meant", "localhost:1", "127.0.0.1:2", "", ":1", "127.0.0.1:2", "localhost:1", "127.0.0.1:2", "s-1"},
		{"advertised elsewhere", "127.0.0.1:1", "203.0.113.9:2", "10.1.1.1:15006", ":1", "203.0.113.9:2", "127.0.0.1:1", "10.1.1.1:15006", "s-1"},
		{"an app on a socket", "unix:///run/a.sock", "0.0.0.0:2", "", "/run/a.sock", ":2", "127.0.0.1:2", "127.0.0.1:2", "s-93d3f03a"},
		{"an inbound on a socket", "127.0.0.1:1", "unix:///run/i.sock", "", ":1", "/run/i.sock", "127.0.0.1:1", "", "s-1"},
	} {
		r := Registration{Name: "s", Address: test.app, Check: &Check{}}
		if test.inbound != "" {
			r.Sidecar = &Sidecar{Address: test.inbound, CheckAddress: test.check}
		}
		made := planOf(t, r).registrations(nil)
		app := made[len(made)-1]
		where := func(r *api.AgentServiceRegistration) string {
			if r.SocketPath != "" {
				return r.SocketPath
			}

			return fmt.Sprintf("%s:%d", r.Address, r.Port)
		}
		want(t, test.name+": id", app.ID, test.registersAs)
		want(t, test.name+": app", where(app), test.appIs)
		want(t, test.name+": check", app.Checks[0].GRPC, test.grpcCheck)
		if test.inbound == "" {
			continue
		}
		want(t, test.name+": inbound", where(made[0]), test.inboundIs)
		tcp := ""
		if len(made[0].Checks) > 1 {
			tcp = made[0].Checks[1].TCP
		}
		want(t, test.name+": inbound's check", tcp, test.tcpCheck)
	}
}

func TestBadRegistration(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range maxMeta + 1 {
		many[fmt.Sprintf("k%d", i)] = ""
	}
	good := Registration{Name: "s", Address: "127.0.0.1:1"}
	planOf(t, good)
	for name, change := range map[string]func(*Registration){
		"no name":             func(r *Registration) { r.Name = "" },
		"a name with a dot":   func(r *Registration) { r.Name = "a.b" },
		"a path":              func(r *Registration) { r.ID = "../x" },
		"no address":          func(r *Registration) { r.Address = "" },
		"port 0":              func(r *Registration) { r.Address = "127.0.0.1:0" },
		"inbound's port 0":    func(r *Registration) { r.Sidecar = &Sidecar{Address: "0.0.0.0:0"} },
		"our meta":            func(r *Registration) { r.Meta = map[string]string{"pillion": "mtls"} },
		"our other meta":      func(r *Registration) { r.Meta = map[string]string{"grpc-services-3": "x"} },
		"a long value":        func(r *Registration) { r.Meta = map[string]string{"k": strings.Repeat("a", 513)} },
		"an odd key":          func(r *Registration) { r.Meta = map[string]string{"a b": ""} },
		"much meta":           func(r *Registration) { r.Meta = many },
		"a negative weight":   func(r *Registration) { r.Passing = -1 },
		"a mad weight":        func(r *Registration) { r.Warning = 1 << 20 },
		"uncheckable":         func(r *Registration) { r.Address = "unix:///a"; r.Check = &Check{} },
		"two sources of gRPC": func(r *Registration) { r.GRPC = []string{"a.A"}; r.AskGRPC = asking(nil, nil) },
	} {
		bad := good
		change(&bad)
		if _, err := bad.plan(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestDiffers(t *testing.T) {
	t.Parallel()
	p := planOf(t, Registration{Name: "s", Address: "127.0.0.1:1", Meta: map[string]string{"k": "v"}, Check: &Check{}, Sidecar: &Sidecar{Address: "0.0.0.0:2"}})
	for i, registration := range p.registrations(nil) {
		checks := map[string]*api.AgentCheck{"of others": {}}
		for _, check := range registration.Checks {
			checks[check.CheckID] = &api.AgentCheck{}
		}
		have := func() *api.AgentService {
			view := viewOf(registration)
			view.TaggedAddresses = map[string]api.ServiceAddress{"lan": {}} // Consul's own
			if view.Proxy != nil {
				proxy := *view.Proxy
				proxy.Mode = "direct"
				view.Proxy = &proxy
			}

			return view
		}
		if err := differs(registration, have(), checks); err != nil {
			t.Fatalf("%d: the same differs: %v", i, err)
		}
		if differs(registration, nil, checks) == nil || differs(registration, have(), nil) == nil {
			t.Fatalf("%d: what is missing is not missed", i)
		}
		for name, change := range map[string]func(*api.AgentService){
			"kind":    func(s *api.AgentService) { s.Kind = "mesh-gateway" },
			"name":    func(s *api.AgentService) { s.Service = "x" },
			"port":    func(s *api.AgentService) { s.Port++ },
			"address": func(s *api.AgentService) { s.Address = "10.0.0.1" },
			"socket":  func(s *api.AgentService) { s.SocketPath = "/x" },
			"meta":    func(s *api.AgentService) { s.Meta["k"] = "w" },
			"tags":    func(s *api.AgentService) { s.Tags = []string{"x"} },
			"weights": func(s *api.AgentService) { s.Weights.Warning = 7 },
			"proxy": func(s *api.AgentService) {
				if s.Proxy == nil {
					s.Port++
				} else {
					s.Proxy.DestinationServiceID = "x"
				}
			},
		} {
			changed := have()
			change(changed)
			if differs(registration, changed, checks) == nil {
				t.Errorf("%d: another %s is not seen", i, name)
			}
		}
	}
}
