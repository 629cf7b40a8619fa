package configyaml

import (
	"path/filepath"
	"testing"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// reachable is an admin port that others can reach.
const reachable = "admin: {listen: \"0.0.0.0:15000\"}\n"

func TestWrongIdentities(t *testing.T) {
	t.Parallel()
	const (
		client = "outbound: {}\nregistry: {file: {path: x}}\n"
		consul = "identity: {consul: {}}\n"
	)
	for _, c := range []wrong{
		{"TLS without an identity", "outbound: {tls: strict}\ninbound: {tls: permissive}\nservice: {name: x, port: 1}\nregistry: {file: {path: x}}\nidentity: {}\n", []string{
			`p.yaml:1:17: outbound.tls: "strict" needs an identity: write identity with files, consul, spiffe or dev, or "off" here`,
			`p.yaml:2:16: inbound.tls: "permissive" needs an identity: write identity with files, consul, spiffe or dev, or "off" here`,
		}},
		{"TLS that nobody knows", client + "inbound: {tls: strickt}\nservice: {name: x, port: 1}\n", []string{
			`p.yaml:3:16: inbound.tls: "strickt" is not known: did you mean "strict"?`,
		}},
		{"an identity without a source", client + "identity: {min_tls_version: \"1.2\"}\n", []string{
			`p.yaml:3:11: identity: has no source, so all would be plaintext: write files, consul, spiffe or dev, or remove the block`,
		}},
		{"a certificate for nobody", client + consul, []string{
			`p.yaml:3:20: identity.consul.service: is missing, and so is service.name: write the service whose certificate this sidecar is to have`,
		}},
		{"an agent", client + "identity: {consul: {service: x, address: \"ftp://x\"}}\n", []string{
			`p.yaml:3:42: identity.consul.address: "ftp://x": the scheme is not known: write http://x or https://x`,
		}},
		{"files that are missing", client + "identity: {files: {certificate: a}}\n", []string{
			`p.yaml:3:19: identity.files.key: is missing`,
			`p.yaml:3:19: identity.files.roots: is missing`,
		}},
		{"foreign roots", client + "identity: {files: {certificate: a, key: b, roots: c, federated_roots: {Example.org: d}}}\n", []string{
			`p.yaml:3:85: identity.files.federated_roots["Example.org"]: "Example.org" is no trust domain, such as "example.org"`,
		}},
		{"IDs", client + "identity: {service_id: \"spiffe://example.org/{service}/{cluster}\", spiffe: {id: \"spiffe://Example.org/x\"}}\n", []string{
			`p.yaml:3:24: identity.service_id: "spiffe://example.org/web/{cluster}" is not a SPIFFE ID: its path has a '{', and only letters, digits, '.', '-' and '_' are allowed`,
			`p.yaml:3:81: identity.spiffe.id: "spiffe://Example.org/x" is not a SPIFFE ID: its trust domain has a 'E', and only lower-case letters, digits, '.', '-' and '_' are allowed`,
		}},
		{"an ID for all services", client + "identity: {service_id: \"spiffe://example.org/all\", spiffe: {}}\n", []string{
			`p.yaml:3:24: identity.service_id: "spiffe://example.org/all" is no SPIFFE ID with {service} in it, such as "spiffe://{trust_domain}/svc/{service}"`,
		}},
		{"a socket", client + "identity: {spiffe: {socket: \"unix:run/x.sock\"}}\n", []string{
			`p.yaml:3:29: identity.spiffe.socket: "unix:run/x.sock" is neither "unix:///path" nor "tcp://ip:port"`,
		}},
		{"a socket's path", client + "identity: {spiffe: {socket: \"unix://run/x.sock\"}}\n", []string{
			`p.yaml:3:29: identity.spiffe.socket: "unix://run/x.sock" has no absolute path: write it as unix:///run/spire/agent.sock`,
		}},
		{"a socket's host", client + "identity: {spiffe: {socket: \"tcp://localhost:1\"}}\n", []string{
			`p.yaml:3:29: identity.spiffe.socket: "tcp://localhost:1" is not an IP address with a port, such as tcp://127.0.0.1:8082`,
		}},
		{"a name for nobody", client + "identity: {dev: {ca: x}}\n", []string{
			`p.yaml:3:17: identity.dev.id: is missing, and there is no service.name to make it of: write it, such as "spiffe://example.org/svc/client"`,
		}},
		{"an admin port for all", client + reachable, []string{
			`p.yaml:3:8: admin.allow: is missing, but 0.0.0.0:15000 can be reached from elsewhere: write who may use it, or listen on 127.0.0.1 or a Unix socket`,
			`p.yaml:3:17: admin.listen: 0.0.0.0:15000 can be reached from elsewhere, so it needs an identity for mutual TLS: write identity, or listen on 127.0.0.1 or a Unix socket`,
		}},
		{"an admin port at a name", client + "admin: {listen: \"pillion.example.org:15000\", allow: [ops, \"spiffe://example.org/x*\"]}\n", []string{
			`p.yaml:3:17: admin.listen: pillion.example.org:15000 can be reached from elsewhere, so it needs an identity for mutual TLS: write identity, or listen on 127.0.0.1 or a Unix socket`,
			`p.yaml:3:59: admin.allow[1]: "spiffe://example.org/x*" is no pattern of SPIFFE IDs: "*" stands for a whole segment, not for a part of one as in "x*"`,
		}},
		{"who may look", client + "admin: {allow: [\"a b\"]}\n", []string{
			`p.yaml:3:17: admin.allow[0]: "a b" is neither a SPIFFE ID, such as "spiffe://example.org/svc/web", nor a service's name`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseBootstrap("p.yaml", []byte(c.content))
			c.check(t, err)
		})
	}
}

func TestIdentitiesThatAreFine(t *testing.T) {
	t.Parallel()
	for _, yaml := range []string{
		"identity: {}\n",
		"identity: {files: {certificate: a, key: b, roots: c, federated_roots: {example.org: d}}}\n" + reachable[:len(reachable)-2] + ", allow: [ops]}\n",
		"identity: {spiffe: {socket: \"tcp://[::1]:8081\"}}\nadmin: {listen: \"localhost:1\"}\n",
		"identity: {consul: {service: x}, service_id: \"spiffe://{trust_domain}/ns/default/dc/dc1/svc/{service}\"}\nadmin: {listen: \"[::1]:1\"}\n",
		"identity: {dev: {ca: x, id: \"spiffe://example.org/x\"}}\nadmin: {listen: \"unix:///x\"}\n",
	} {
		if _, err := parseBootstrap("p.yaml", []byte("outbound: {}\nregistry: {file: {path: x}}\n"+yaml)); err != nil {
			t.Errorf("%s: %v", yaml, err)
		}
	}
}

func TestIdentityDefaults(t *testing.T) {
	t.Parallel()
	read := func(yaml string) *configv1.Bootstrap {
		t.Helper()
		b, err := parseBootstrap("/etc/pillion/p.yaml", []byte("outbound: {}\ninbound: {}\nservice: {name: greeter, port: 1}\n"+yaml))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := read("registry: {file: {path: x}}\nidentity: {}\n")
	if b.GetOutbound().GetTls() != "off" || b.GetInbound().GetTls() != "off" {
		t.Errorf("without an identity: %v", b)
	}
	b = read("registry: {file: {path: x}}\nidentity: {files: {certificate: a, key: b, roots: /c, federated_roots: {example.org: d}}}\n")
	files := b.GetIdentity().GetFiles()
	if b.GetOutbound().GetTls() != "strict" || b.GetInbound().GetTls() != "strict" {
		t.Errorf("with an identity: %v", b)
	}
	for got, want := range map[string]string{
		files.GetCertificate(): "a", files.GetKey(): "b", files.GetFederatedRoots()["example.org"]: "d",
	} {
		if got != filepath.Join("/etc/pillion", want) {
			t.Errorf("path %q", got)
		}
	}
	if files.GetRoots() != "/c" {
		t.Errorf("path %q", files.GetRoots())
	}
	const registry = "registry: {consul: {address: \"127.0.0.1:8500\", scheme: https, token_file: token, namespace: ns, partition: ap}}\n"
	same := read(registry + "identity: {consul: {}}\n").GetIdentity()
	if c := same.GetConsul(); c.GetService() != "greeter" || c.GetAddress() != "127.0.0.1:8500" || c.GetScheme() != "https" ||
		c.GetTokenFile() != "/etc/pillion/token" || c.GetNamespace() != "ns" || c.GetPartition() != "ap" || !c.GetIntentions() || same.GetServiceId() != "" {
		t.Errorf("with the registry's agent: %v", same)
	}
	other := read(registry + "identity: {consul: {address: \"127.0.0.1:9500\", intentions: false}}\n").GetIdentity().GetConsul()
	if other.GetScheme() != "" || other.GetTokenFile() != "" || other.GetNamespace() != "ns" || other.GetIntentions() {
		t.Errorf("with another agent: %v", other)
	}
}

func TestAccessDefaults(t *testing.T) {
	t.Parallel()
	mesh, err := ParseMesh("m.yaml", []byte(`
services: {a: {identities: ["spiffe://{trust_domain}/x/{service}"]}}
policies:
- {name: a, service: a, access: {rules: [{action: allow}, {name: x, action: deny, mode: audit}]}}
- {name: b, service: a, access: {mode: "off", rules: [{action: allow}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := mesh.GetPolicies()[0].GetAccess(), mesh.GetPolicies()[1].GetAccess()
	if a.GetMode() != "enforce" || a.GetRules()[0].GetMode() != "enforce" || a.GetRules()[0].GetName() != "1" || a.GetRules()[1].GetMode() != "audit" || b.GetRules()[0].GetMode() != "off" {
		t.Errorf("%v, %v", a, b)
	}
	_, err = ParseMesh("m.yaml", []byte(`services: {a: {identities: ["spiffe://a b/c"]}}
policies:
- {name: a, service: a, access: {rules: [{}, {action: maybe, from: ["a/b"]}]}}
`))
	wrong{"", "", []string{
		`m.yaml:3:42: policies[0].access.rules[0].action: "" is not known: use one of allow, deny`,
		`m.yaml:3:55: policies[0].access.rules[1].action: "maybe" is not known: use one of allow, deny`,
		`m.yaml:3:69: policies[0].access.rules[1].from[0]: "a/b" is neither a SPIFFE ID, such as "spiffe://example.org/svc/web", nor a service's name`,
	}}.check(t, err)
	_, err = ParseMesh("m.yaml", []byte(`services: {a: {identities: ["spiffe://a b/c"]}}`))
	wrong{"", "", []string{
		`m.yaml:1:29: services["a"].identities[0]: "spiffe://a b/c" is not a SPIFFE ID: its trust domain has a ' ', and only lower-case letters, digits, '.', '-' and '_' are allowed`,
	}}.check(t, err)
}
