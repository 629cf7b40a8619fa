package configyaml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// wrong is a file and all that a person is told about it.
type wrong struct {
	name, content string
	says          []string
}

func TestWrongBootstraps(t *testing.T) {
	t.Parallel()
	const app = "service: {name: x, port: 1}\ninbound: {}\n"
	for _, c := range []wrong{
		{"nothing at all", "", []string{
			`p.yaml:1:1: nothing to listen on: write outbound (for the clients beside this sidecar), inbound (for the mesh), or both`,
		}},
		{"unknown field", "outbond: {}\n", []string{
			`p.yaml:1:1: unknown field "outbond": did you mean "outbound"?`,
		}},
		{"unknown field, nothing like it", "drain: {zzz: 1}\n", []string{
			`p.yaml:1:9: drain: unknown field "zzz": known here: timeout`,
		}},
		{"unknown field of an empty block", "identity: {x: 1}\n", []string{
			`p.yaml:1:12: identity: unknown field "x": known here: files, consul, spiffe, dev, service_id, min_tls_version, handshake_timeout, max_handshakes, start_timeout`,
		}},
		{"field numbers are no names", "1: {name: x}\n", []string{
			`p.yaml:1:1: unknown field "1": known here: service, outbound, inbound, admin, registry, identity, connections, http2, retry, access_log, drain, log, upgrade, metrics, overload, policies, control`,
		}},
		{"several at once", app + "service: {}\nlog: {levle: info}\ndrain: {timeout: 5}\n", []string{
			`p.yaml:3:1: service: is written twice: remove one`,
			`p.yaml:4:7: log: unknown field "levle": did you mean "level"?`,
			`p.yaml:5:18: drain.timeout: "5" is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"`,
		}},
		{"the same field by its other name", "access_log: {}\naccessLog: {}\n", []string{
			`p.yaml:2:1: access_log: is written twice: remove one`,
		}},
		{"numbers", "service: {port: abc}\nhttp2: {max_frame_size: -1, buffer_budget: 1.5, max_connections: 1e30, connection_window: 5Zi}\nretry: {max_attempts: 4294967296}\n", []string{
			`p.yaml:1:17: service.port: "abc" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
			`p.yaml:2:25: http2.max_frame_size: "-1" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
			`p.yaml:2:44: http2.buffer_budget: "1.5" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
			`p.yaml:2:66: http2.max_connections: "1e30" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
			`p.yaml:2:91: http2.connection_window: "5Zi" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
			`p.yaml:3:23: retry.max_attempts: "4294967296" is too large a number`,
		}},
		{"yes and no", "access_log: {errors: yes, sample: many}\nservice: {health_check: {disabled: \"true\"}}\n", []string{
			`p.yaml:1:22: access_log.errors: "yes" is not true or false`,
			`p.yaml:1:35: access_log.sample: "many" is not a number`,
			`p.yaml:2:36: service.health_check.disabled: "true" in quotes is a text: write true without them`,
		}},
		{"not a number", "access_log: {sample: NaN}\n", []string{
			`p.yaml:1:22: access_log.sample: is NaN, but must be greater than or equal to 0 and less than or equal to 1`,
		}},
		{"wrong shapes", "service: [a]\noutbound: {listen: [a], default_timeout: {a: b}}\nadmin: x\n? [b]\n: 1\n", []string{
			`p.yaml:1:10: service: is a list, but must be names with values (name: …, port: …)`,
			`p.yaml:2:20: outbound.listen: is a list, but must be a text`,
			`p.yaml:2:42: outbound.default_timeout: is a block of names with values, but must be a duration such as "5s"`,
			`p.yaml:3:8: admin: is a single value, but must be names with values (listen: …, allow: …)`,
			`p.yaml:4:3: is a list, but must be a name`,
		}},
		{"a list for a file", "- a\n", []string{
			`p.yaml:1:1: is a list, but must be names with values (service: …, outbound: …)`,
		}},
		{"no value", "outbound: {listen: }\nservice: {tags: , meta: }\n", []string{
			`p.yaml:1:20: outbound.listen: has no value: write a text, or remove the line`,
			`p.yaml:2:17: service.tags: has no value: write [] for none, or remove the line`,
			`p.yaml:2:25: service.meta: has no value: write {} for none, or remove the line`,
		}},
		{"aliases", "outbound: &o {listen: \"a:1\"}\ninbound: *o\nadmin: {<<: *o}\n", []string{
			`p.yaml:2:10: inbound: aliases (*name, <<) are not supported: write the value out`,
			`p.yaml:3:9: admin: aliases (*name, <<) are not supported: write the value out`,
		}},
		{"two documents", "outbound: {}\n---\ninbound: {}\n", []string{
			`p.yaml:2:1: has a second document: remove the line "---" and what follows`,
		}},
		{"syntax", "outbound:\n  listen: a: b\n", []string{
			`p.yaml:2:1: is not valid YAML: mapping values are not allowed in this context`,
		}},
		{"tab", "outbound:\n\tlisten: x\n", []string{
			`p.yaml:2:1: is not valid YAML: found character that cannot start any token (a tab? indent with spaces)`,
		}},
		{"not text", "a: \xff", []string{`p.yaml:1:1: is not valid YAML: invalid leading UTF-8 octet`}},
		{"UTF-16", "\xff\xfea\x00:\x00", []string{`p.yaml:1:1: is UTF-16: save it as UTF-8`}},
		{"an end in the middle", "? outbound", []string{
			`p.yaml:1:1: registry: is missing, but outbound needs to know where services are: write file or consul`,
		}},
		{"old Macintosh", "outbound: {}\n\rinbound: {}", []string{
			`p.yaml:2:1: has a line break that is not a newline: save it with Unix line ends`,
		}},
		{"Windows line ends are fine", "outbound: {}\r\nxyz: {}\r\n", []string{
			`p.yaml:2:1: unknown field "xyz": known here: service, outbound, inbound, admin, registry, identity, connections, http2, retry, access_log, drain, log, upgrade, metrics, overload, policies, control`,
		}},
		{"names", "service: {name: -1, port: 1, id: \"a b\", grpc: [a.B, /a.B], tags: [a, a], meta: {\"a b\": c}, health_check: {grpc_service: \"a b\"}}\ninbound: {}\nregistry: {consul: {datacenter: a.b}}\noutbound: {default_service: a_}\n", []string{
			`p.yaml:1:17: service.name: "-1" may hold letters, digits, "-" and "_", and begins and ends with a letter or a digit`,
			`p.yaml:1:34: service.id: "a b" may hold letters, digits, ".", ":", "-" and "_"`,
			`p.yaml:1:53: service.grpc[1]: "/a.B" is not a full gRPC service name such as "helloworld.Greeter"`,
			`p.yaml:1:66: service.tags: names something twice: remove one`,
			`p.yaml:1:88: service.meta["a b"]: "a b" may hold letters, digits, "-" and "_"`,
			`p.yaml:1:121: service.health_check.grpc_service: "a b" may hold letters, digits, ".", "/", "-" and "_"`,
			`p.yaml:3:33: registry.consul.datacenter: "a.b" may hold letters, digits, "-" and "_"`,
			`p.yaml:4:29: outbound.default_service: "a_" may hold letters, digits, ".", "-" and "_", and begins and ends with a letter or a digit`,
		}},
		{"choices", "outbound: {load_balancing: round-robbin}\nregistry: {file: {path: x}}\nlog: {level: loud}\n", []string{
			`p.yaml:1:28: outbound.load_balancing: "round-robbin" is not known: did you mean "round_robin"?`,
			`p.yaml:3:14: log.level: "loud" is not known: use one of debug, info, warn, error`,
		}},
		{"ranges", "access_log: {sample: 2}\nconnections: {connect_timeout: 1us}\nhttp2: {max_frame_size: 1}\nservice: {port: 70000, name: a}\n", []string{
			`p.yaml:1:22: access_log.sample: is 2, but must be greater than or equal to 0 and less than or equal to 1`,
			`p.yaml:2:32: connections.connect_timeout: must be greater than or equal to 0.001s and less than or equal to 300s`,
			`p.yaml:3:25: http2.max_frame_size: is 1, but must be greater than or equal to 16384 and less than or equal to 16777215`,
			`p.yaml:4:17: service.port: is 70000, but must be greater than or equal to 1 and less than or equal to 65535`,
		}},
		{"duration out of range", "drain: {timeout: 9999999999999h}\n", []string{
			`p.yaml:1:18: drain.timeout: must be greater than or equal to 0s and less than or equal to 86400s`,
		}},
		{"one that cannot be read beside one that is not allowed", "outbound: {load_balancing: fastest}\nregistry: {}\ndrain: {timeout: soon}\nservice: {port: x}\n", []string{
			`p.yaml:1:28: outbound.load_balancing: "fastest" is not known: use one of round_robin, least_request, pick_first`,
			`p.yaml:3:18: drain.timeout: "soon" is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"`,
			`p.yaml:4:17: service.port: "x" is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)`,
		}},
		{"no registry named", "outbound: {}\nregistry: {}\n", []string{
			`p.yaml:2:11: registry: write one of file, consul, static here`,
		}},
		{"two registries", "outbound: {}\nregistry: {file: {path: a}, consul: {}}\n", []string{
			`p.yaml:2:37: registry.consul: is written beside file: write one of them`,
		}},
		{"registry without a path", "outbound: {}\nregistry: {file: {}}\n", []string{
			`p.yaml:2:18: registry.file.path: is missing`,
		}},
		{"outbound without a registry", "outbound: {}\n", []string{
			`p.yaml:1:1: registry: is missing, but outbound needs to know where services are: write file or consul`,
		}},
		{"inbound without an app", "inbound: {}\n", []string{
			`p.yaml:1:1: service: is missing, but inbound needs an app to hand RPCs to: write its name and port`,
		}},
		{"app without an address", "service: {name: x}\ninbound: {}\n", []string{
			`p.yaml:1:10: service: says neither port nor address: write where the app listens`,
		}},
		{"app with two addresses", "service: {name: x, port: 1, address: \"unix:///x\"}\ninbound: {}\n", []string{
			`p.yaml:1:38: service.address: is written beside port: write one of them`,
		}},
		{"app at port 0", "service: {name: x, address: \"127.0.0.1:0\"}\ninbound: {}\n", []string{
			`p.yaml:1:29: service.address: "127.0.0.1:0" has port 0, which nobody listens on: write the port`,
		}},
		{"our own meta", "service: {name: x, port: 1, meta: {pillion: x, grpc-services-2: x}}\ninbound: {}\n", []string{
			`p.yaml:1:45: service.meta["pillion"]: is the sidecar's own entry: choose another name (gRPC service names go into service.grpc)`,
			`p.yaml:1:65: service.meta["grpc-services-2"]: is the sidecar's own entry: choose another name (gRPC service names go into service.grpc)`,
		}},
		{"health check", "service: {name: x, port: 1, health_check: {interval: 1s, timeout: 2s, deregister_critical_after: 59s}}\ninbound: {}\n", []string{
			`p.yaml:1:67: service.health_check.timeout: 2s is longer than the interval, 1s`,
			`p.yaml:1:98: service.health_check.deregister_critical_after: 59s is too short: write 0s for never, or at least 1m0s (Consul's smallest)`,
		}},
		{"addresses", "service: {name: x, address: x}\nadmin: {listen: \"unix:x\"}\ninbound: {listen: \"a:b\", advertise: \"0.0.0.0:1\"}\n", []string{
			`p.yaml:1:29: service.address: address "x": want host:port (IPv6 in brackets, [::1]:80) or unix:///path`,
			`p.yaml:2:17: admin.listen: address "unix:x": the path of a Unix socket is absolute: write unix:///run/app.sock`,
			`p.yaml:3:19: inbound.listen: address "a:b": port "b" is not a number from 0 to 65535`,
			`p.yaml:3:37: inbound.advertise: "0.0.0.0:1" is no address that others can dial: write this machine's`,
		}},
		{"listeners in each other's way", "service: {name: x, port: 15001}\ninbound: {}\noutbound: {listen: \"localhost:15001\"}\nregistry: {file: {path: x}}\nadmin: {listen: \"[::1]:15006\"}\n", []string{
			`p.yaml:3:20: outbound.listen: localhost:15001 is taken by service.address (127.0.0.1:15001): choose another`,
			`p.yaml:5:17: admin.listen: [::1]:15006 is taken by inbound.listen (0.0.0.0:15006): choose another`,
		}},
		{"the same socket", app + "admin: {listen: \"unix:///x\"}\noutbound: {listen: \"unix:///x\"}\nregistry: {file: {path: x}}\n", []string{
			`p.yaml:3:17: admin.listen: unix:///x is taken by outbound.listen (unix:///x): choose another`,
		}},
		{"timeouts", "outbound: {default_timeout: 2s, max_timeout: 1s}\nregistry: {file: {path: x}}\nconnections: {backoff: {initial: 2s, max: 1s}, keepalive: {interval: 5s}, idle_timeout: 1ms, max_age: 1ms}\n", []string{
			`p.yaml:1:29: outbound.default_timeout: 2s is longer than max_timeout, 1s`,
			`p.yaml:3:43: connections.backoff.max: 1s is shorter than initial, 2s`,
			`p.yaml:3:70: connections.keepalive.interval: 5s is too short: write 0s for never, or at least 10s (gRPC's smallest)`,
			`p.yaml:3:89: connections.idle_timeout: 1ms is too short: write 0s for never, or at least 1s (the smallest that makes sense)`,
			`p.yaml:3:103: connections.max_age: 1ms is too short: write 0s for never, or at least 1s (the smallest that makes sense)`,
		}},
		{"windows", app + "http2: {initial_stream_window: 1Mi, max_stream_window: 512Ki, connection_window: 256Ki}\n", []string{
			`p.yaml:3:56: http2.max_stream_window: 524288 is smaller than initial_stream_window, 1048576`,
			`p.yaml:3:82: http2.connection_window: 262144 is smaller than initial_stream_window, 1048576: one stream could not use its own`,
		}},
		{"a concurrency limit", app + "overload: {adaptive_concurrency: {min_limit: 50, max_limit: 40, initial_limit: 60}}\n", []string{
			`p.yaml:3:61: overload.adaptive_concurrency.max_limit: 40 is smaller than min_limit, 50`,
			`p.yaml:3:80: overload.adaptive_concurrency.initial_limit: 60 is not within min_limit, 50, and max_limit, 40`,
		}},
		{"a limit of what is not there", "outbound: {}\nregistry: {file: {path: x}}\noverload: {adaptive_concurrency: {}}\n", []string{
			`p.yaml:3:34: overload.adaptive_concurrency: limits what the inbound side hands to the app, but there is no inbound: write it, or remove the block`,
		}},
		{"output", app + "http2: {output_buffer: 1Mi, max_output: 64Ki}\n", []string{
			`p.yaml:3:41: http2.max_output: 65536 is smaller than output_buffer, 1048576`,
		}},
		{"static upstreams", "outbound: {default_service: c}\nregistry: {static: {upstreams: {a: {addresses: [\"a:0\", \":1\"]}, b: {addresses: [x]}}}}\n", []string{
			`p.yaml:1:29: outbound.default_service: "c" is not among the static upstreams (a, b)`,
			`p.yaml:2:49: registry.static.upstreams["a"].addresses[0]: "a:0" has port 0, which nobody listens on: write the port`,
			`p.yaml:2:56: registry.static.upstreams["a"].addresses[1]: ":1" has no host: write it, such as 127.0.0.1:1`,
			`p.yaml:2:80: registry.static.upstreams["b"].addresses[0]: address "x": want host:port (IPv6 in brackets, [::1]:80) or unix:///path`,
		}},
		{"an advertised socket", "service: {name: x, port: 1}\ninbound: {advertise: \"unix:///x\"}\n", []string{
			`p.yaml:2:22: inbound.advertise: "unix:///x" is a Unix socket: write the host:port that others reach it at, or remove the line`,
		}},
		{"nothing that Consul can check", "service: {name: x, address: \"unix:///a\"}\ninbound: {listen: \"unix:///b\"}\nregistry: {consul: {}}\n", []string{
			`p.yaml:1:29: service.address: Consul cannot check an app on a Unix socket that has no inbound on TCP: write inbound with a host:port, or health_check: {disabled: true}`,
		}},
		{"nothing that Consul can check, without an inbound", "service: {name: x, address: \"unix:///a\"}\noutbound: {}\nregistry: {consul: {}}\n", []string{
			`p.yaml:1:29: service.address: Consul cannot check an app on a Unix socket that has no inbound on TCP: write inbound with a host:port, or health_check: {disabled: true}`,
		}},
		{"the port of a socket", "service: {name: x, port: 1}\ninbound: {listen: \"unix:///b\", advertise: \"a:0\"}\nregistry: {consul: {}}\n", []string{
			`p.yaml:2:43: inbound.advertise: "a:0" has port 0, which stands for the listener's, but that is a Unix socket: write the port`,
		}},
		{"Consul's address", app + "registry: {consul: {address: \"ftp://x\"}}\n", []string{
			`p.yaml:3:30: registry.consul.address: "ftp://x": the scheme is not known: write http://x or https://x`,
		}},
		{"Consul's address and scheme", app + "registry: {consul: {address: \"http://x:1\", scheme: https}}\n", []string{
			`p.yaml:3:52: registry.consul.scheme: "https" contradicts the address, http://x:1: write one of them`,
		}},
		{"Consul's address without a host", app + "registry: {consul: {address: \"http://\"}}\n", []string{
			`p.yaml:3:30: registry.consul.address: "http://" is not a URL with a host, such as http://127.0.0.1:8500`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseBootstrap("p.yaml", []byte(c.content))
			c.check(t, err)
		})
	}
}

func TestSocketsInConsul(t *testing.T) {
	t.Parallel()
	const app = "registry: {consul: {}}\nservice: {name: x, address: \"unix:///a\""
	for _, content := range []string{
		app + "}\ninbound: {}\n",
		app + "}\ninbound: {listen: \"unix:///b\", advertise: \"h:1\"}\n",
		app + ", health_check: {disabled: true}}\ninbound: {listen: \"unix:///b\"}\n",
		"registry: {consul: {}}\nservice: {name: x, port: 1}\ninbound: {listen: \"unix:///b\"}\n",
		"registry: {file: {path: m}}\nservice: {name: x, address: \"unix:///a\"}\ninbound: {listen: \"unix:///b\"}\n",
	} {
		if _, err := parseBootstrap("p.yaml", []byte(content)); err != nil {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func TestWrongMeshes(t *testing.T) {
	t.Parallel()
	for _, c := range []wrong{
		{"shape", "services: {a: {endpoints: [{address: \"a:1\", wieght: 2}]}, b: {grpc: x, endpoints: }}\npolicies: [{rettry: {}}]\n", []string{
			`m.yaml:1:45: services["a"].endpoints[0]: unknown field "wieght": did you mean "weight"?`,
			`m.yaml:1:69: services["b"].grpc: is a single value, but must be a list ([...], or lines that begin with -)`,
			`m.yaml:1:83: services["b"].endpoints: has no value: write [] for none, or remove the line`,
			`m.yaml:2:13: policies[0]: unknown field "rettry": did you mean "retry"?`,
		}},
		{"rules", "services:\n  a/b: {}\n  c:\n    endpoints:\n    - weight: 0\n      address: a:1\n    - {weight: 3}\n", []string{
			`m.yaml:2:8: services["a/b"]: "a/b" may hold letters, digits, ".", "-" and "_", and begins and ends with a letter or a digit`,
			`m.yaml:5:15: services["c"].endpoints[0].weight: is 0, but must be greater than or equal to 1 and less than or equal to 65535`,
			`m.yaml:7:7: services["c"].endpoints[1].address: is missing`,
		}},
		{"endpoints", "services:\n  \"a\":\n    endpoints:\n    - address: b:1\n    - address: b:0\n    - address: b:1\npolicies: [{name: p, service: a, timeout: {}}, {name: p, service: a, timeout: {}}]\n", []string{
			`m.yaml:5:16: services["a"].endpoints[1].address: "b:0" has port 0, which nobody listens on: write the port`,
			`m.yaml:6:16: services["a"].endpoints[2].address: "b:1" is endpoints[0] already: remove one`,
			`m.yaml:7:55: policies[1].name: "p" is policies[0] already: give it another name`,
		}},
		{"a service written twice", "services:\n  a: {}\n  a: {}\n", []string{
			`m.yaml:3:3: services["a"]: is written twice: remove one`,
		}},
		{"no services", "services:\n", []string{
			`m.yaml:1:10: services: has no value: write {} for none, or remove the line`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseMesh("m.yaml", []byte(c.content))
			c.check(t, err)
		})
	}
}

func (c wrong) check(t *testing.T, err error) {
	t.Helper()
	want := strings.Join(c.says, "\n")
	if err == nil {
		t.Fatalf("no error; want\n%s", want)
	}
	if _, ok := errors.AsType[Problems](err); !ok {
		t.Errorf("the error is a %T, not Problems", err)
	}
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
}

// A large file that is wrong throughout is told off briefly, and soon.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for _, line := range []string{
		"x%d: 1\n",                            // found by the walker
		"  s%d: {endpoints: [{weight: x}]}\n", // by the decoder
		"  s%d: {endpoints: [{address: \"a:1\", weight: 0}]}\n", // by the schema's rules
		"  s%d: {endpoints: [{address: \"a:0\"}]}\n",            // by our own
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if line[0] == ' ' {
				b.WriteString("services:\n")
			}
			for i := range n {
				fmt.Fprintf(&b, line, i)
			}
			_, err := ParseMesh("m.yaml", []byte(b.String()))
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != maxProblems+1 || !strings.HasSuffix(lines[maxProblems], "and 9950 more problems from here on") {
				t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
			}
		})
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"listen", "load_balancing", "port", "id", "max_timeout", "default_timeout"}
	for name, want := range map[string]string{
		"lisen": "listen", "listne": "listen", "Listen": "listen", "loadBalancing": "load_balancing", "load-balancing": "load_balancing",
		"prot": "port", "ports": "port", "max_timeot": "max_timeout", "timeout": "", "xyz": "", "": "", "ip": "id",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}
