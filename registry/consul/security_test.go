package consul

import (
	"fmt"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

func TestMergeSaysWhatInstancesSpeak(t *testing.T) {
	t.Parallel()
	speaking := func(value string) *api.ServiceEntry {
		return with(sidecarEntry("a", 2), func(e *api.ServiceEntry) { e.Service.Meta = map[string]string{metaPillion: value} })
	}
	envoy := with(sidecarEntry("a", 3), func(e *api.ServiceEntry) { e.Service.Meta = nil; e.Service.ID = "0-envoy" })
	ill := with(sidecarEntry("a", 3), func(e *api.ServiceEntry) {
		e.Service.Meta = nil
		e.Checks = api.HealthChecks{checkOf(e.Service.ID, api.HealthCritical, "refused")}
	})
	native := with(appEntry("a", 1), func(e *api.ServiceEntry) { e.Service.Connect = &api.AgentServiceConnect{Native: true} })
	const proves = " spiffe://{trust_domain}/ns/default/dc/dc1/svc/greeter greeter.default.dc1.internal.{trust_domain}"

	for _, test := range []struct {
		name           string
		app            *api.ServiceEntry
		sidecars       []*api.ServiceEntry
		requireSidecar bool
		without, with  string // "address security identity serverName" of the endpoint
	}{
		{name: "an app alone", without: "10.0.0.1:1 plaintext", with: "10.0.0.1:1 plaintext"},
		{name: "an app alone where a sidecar is required", requireSidecar: true},
		{name: "a plain Pillion", sidecars: []*api.ServiceEntry{speaking("plain")}, without: "10.0.0.1:2 plaintext", with: "10.0.0.1:2 plaintext"},
		{name: "a permissive Pillion", sidecars: []*api.ServiceEntry{speaking("permissive")}, without: "10.0.0.1:2 permissive", with: "10.0.0.1:2 permissive" + proves},
		{name: "a Pillion with mTLS", sidecars: []*api.ServiceEntry{speaking("mtls")}, requireSidecar: true, without: "10.0.0.1:2 mtls", with: "10.0.0.1:2 mtls" + proves},
		{name: "a Pillion that speaks something new", sidecars: []*api.ServiceEntry{speaking("quic")}, without: "10.0.0.1:2 mtls", with: "10.0.0.1:2 mtls" + proves},
		{name: "Envoy", sidecars: []*api.ServiceEntry{envoy}, without: "10.0.0.1:1 plaintext", with: "10.0.0.1:3 mtls" + proves},
		{name: "Envoy, required", sidecars: []*api.ServiceEntry{envoy}, requireSidecar: true, with: "10.0.0.1:3 mtls" + proves},
		{name: "Envoy beside a Pillion", sidecars: []*api.ServiceEntry{envoy, speaking("plain")}, without: "10.0.0.1:2 plaintext", with: "10.0.0.1:2 plaintext"},
		{name: "a critical Envoy takes its app with it", sidecars: []*api.ServiceEntry{ill}, without: "10.0.0.1:1 plaintext"},
		{name: "Connect native", app: native, sidecars: []*api.ServiceEntry{native}, without: "10.0.0.1:1 plaintext", with: "10.0.0.1:1 mtls" + proves},
		{name: "Connect native, required", app: native, requireSidecar: true, with: "10.0.0.1:1 mtls" + proves},
		{name: "in a namespace", app: with(appEntry("a", 1), func(e *api.ServiceEntry) { e.Service.Namespace = "team" }), sidecars: []*api.ServiceEntry{envoy},
			without: "10.0.0.1:1 plaintext", with: "10.0.0.1:3 mtls spiffe://{trust_domain}/ns/team/dc/dc1/svc/greeter greeter.team.dc1.internal.{trust_domain}"},
		{name: "in a partition", app: with(appEntry("a", 1), func(e *api.ServiceEntry) { e.Node.Partition = "part" }), sidecars: []*api.ServiceEntry{envoy},
			without: "10.0.0.1:1 plaintext", with: "10.0.0.1:3 mtls spiffe://{trust_domain}/ap/part/ns/default/dc/dc1/svc/greeter greeter.default.part.dc1.internal-v1.{trust_domain}"},
		{name: "nobody says where", app: with(appEntry("a", 1), func(e *api.ServiceEntry) { e.Node.Datacenter = "" }), sidecars: []*api.ServiceEntry{envoy},
			without: "10.0.0.1:1 plaintext", with: "10.0.0.1:3 mtls"},
	} {
		for _, connect := range []bool{false, true} {
			app, wanted := test.app, test.without
			if app == nil {
				app = appEntry("a", 1)
			}
			if connect {
				wanted = test.with
			}
			made := merge("greeter", instancesOf([]*api.ServiceEntry{app}, standard.Instances, nil), instancesOf(test.sidecars, standard.Instances, nil),
				reach{requireSidecar: test.requireSidecar, connect: connect}, func(string) bool { return false })
			got := ""
			for _, e := range made.service.Endpoints {
				got = e.Address + " " + e.Security.String()
				for _, id := range e.Identities {
					got += " " + id + " " + e.ServerName
				}
			}
			want(t, fmt.Sprintf("%s, connect %t", test.name, connect), got, wanted)
		}
	}
}

func TestSidecarsSayWhatTheySpeak(t *testing.T) {
	t.Parallel()
	for security, wanted := range map[registry.Security]string{
		registry.SecurityUnknown: "plain", registry.SecurityPlaintext: "plain", registry.SecurityPermissive: "permissive", registry.SecurityMTLS: "mtls",
	} {
		p := planOf(t, Registration{Name: "s", Address: "127.0.0.1:1", Sidecar: &Sidecar{Address: "0.0.0.0:2", Security: security}})
		want(t, security.String(), p.registrations(nil)[0].Meta[metaPillion], wanted)
	}
}

// The agent has no identity: it cannot ask through an inbound that wants one.
func TestAppOnASocketBehindMTLSIsCheckedByConnecting(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		security         registry.Security
		app, target      string
		grpc, tcp, check string
	}{
		{registry.SecurityPlaintext, "unix:///run/a.sock", "", "127.0.0.1:2", "", "s-93d3f03a:grpc"},
		{registry.SecurityPermissive, "unix:///run/a.sock", "", "", "127.0.0.1:2", "s-93d3f03a:tcp"},
		{registry.SecurityMTLS, "unix:///run/a.sock", "", "", "127.0.0.1:2", "s-93d3f03a:tcp"},
		{registry.SecurityMTLS, "unix:///run/a.sock", "127.0.0.1:9", "127.0.0.1:9", "", "s-93d3f03a:grpc"},
		{registry.SecurityMTLS, "127.0.0.1:1", "", "127.0.0.1:1", "", "s-1:grpc"},
	} {
		made := planOf(t, Registration{
			Name: "s", Address: test.app, Check: &Check{Target: test.target}, Sidecar: &Sidecar{Address: "0.0.0.0:2", Security: test.security},
		}).registrations(nil)
		check := made[1].Checks[0]
		want(t, fmt.Sprint(test), fmt.Sprint(check.GRPC, "|", check.TCP, "|", check.CheckID), fmt.Sprint(test.grpc, "|", test.tcp, "|", test.check))
	}
}
