package lifecycle

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// A port that another process has ends the start with a line that names it.
func TestAnOccupiedPort(t *testing.T) {
	t.Parallel()

	taken := harness.Listen(t).Addr().String()
	for _, flag := range []string{"--outbound", "--admin"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()

			listen := map[string]string{"--outbound": harness.FreeAddress(t), "--admin": harness.FreeAddress(t)}
			listen[flag] = taken

			code, output := pillion(t, "run", "--outbound", listen["--outbound"], "--admin", listen["--admin"],
				"--upstream", "app="+harness.FreeAddress(t), "--log-level", "error")
			if code != 1 {
				t.Errorf("exit %d", code)
			}
			oneLine(t, output, taken, "in use")
		})
	}
}

// A bad configuration ends with file, line and field of each fault, and `run`
// says the same as `check`, before it listens anywhere.
func TestABadConfiguration(t *testing.T) {
	t.Parallel()

	const good = `services: {app: {endpoints: [{address: "127.0.0.1:1"}]}}`

	for name, files := range map[string]struct {
		bootstrap, mesh string
		faults          []string // patterns of what a line says, after the folder
	}{
		"a field that does not exist": {
			"outbund: {listen: \"LISTEN\"}\n", good,
			[]string{`pillion\.yaml:1:\d+: .*outbund.*outbound`},
		},
		"a wrong type": {
			"outbound:\n  listen: [1]\n", good,
			[]string{`pillion\.yaml:2:\d+: .*listen`},
		},
		"a value that is not allowed": {
			"outbound:\n  listen: \"LISTEN\"\n  load_balancing: fastest\nregistry: {file: {path: mesh.yaml}}\n", good,
			[]string{`pillion\.yaml:3:\d+: .*load_balancing.*round_robin`},
		},
		"no YAML": {
			"outbound: {listen: \"LISTEN\"\n", good,
			[]string{`pillion\.yaml:\d+`},
		},
		"two faults": {
			"outbound:\n  listen: \"LISTEN\"\n  load_balancing: fastest\nregistry: {file: {path: mesh.yaml}}\ndrain: {timeout: soon}\n", good,
			[]string{`pillion\.yaml:5:\d+: .*timeout`},
		},
		"a bad address in the mesh file": {
			"outbound: {listen: \"LISTEN\"}\nregistry: {file: {path: mesh.yaml}}\n",
			"services:\n  app:\n    endpoints:\n    - address: \"no port\"\n",
			[]string{`mesh\.yaml:4:\d+: .*address`},
		},
		"a bad weight in the mesh file": {
			"outbound: {listen: \"LISTEN\"}\nregistry: {file: {path: mesh.yaml}}\n",
			"services:\n  app:\n    endpoints:\n    - {address: \"127.0.0.1:1\", weight: -1}\n",
			[]string{`mesh\.yaml:4:\d+: .*weight`},
		},
		"no mesh file": {
			"outbound: {listen: \"LISTEN\"}\nregistry: {file: {path: elsewhere.yaml}}\n", good,
			[]string{`elsewhere\.yaml`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			folder, listen := t.TempDir(), harness.FreeAddress(t)
			path := write(t, folder, "pillion.yaml", strings.ReplaceAll(files.bootstrap, "LISTEN", listen))
			write(t, folder, "mesh.yaml", files.mesh)

			for _, command := range []string{"check", "run"} {
				code, output := pillion(t, command, "-c", path)
				if code != 1 {
					t.Errorf("%s: exit %d", command, code)
				}
				for _, fault := range files.faults {
					if !regexp.MustCompile(`(?m)` + fault).MatchString(output) {
						t.Errorf("%s: no line matches %q in\n%s", command, fault, output)
					}
				}
				if strings.Contains(output, "Usage:") {
					t.Errorf("%s: a lesson on usage does not help here:\n%s", command, output)
				}
			}
		})
	}
}

func TestAGoodConfiguration(t *testing.T) {
	t.Parallel()

	folder := t.TempDir()
	path := write(t, folder, "pillion.yaml", fmt.Sprintf(`
service: {name: greeter, port: 50051, meta: {version: v1}}
outbound: {listen: %q}
inbound:  {listen: %q}
admin:    {listen: %q}
registry:
  file: {path: mesh.yaml}
identity: {}
`, harness.FreeAddress(t), harness.FreeAddress(t), harness.FreeAddress(t)))
	write(t, folder, "mesh.yaml", `
services:
  greeter:
    grpc: [helloworld.Greeter]
    endpoints:
    - {address: "127.0.0.1:50051", weight: 1, meta: {version: v1}}
policies: []
`)

	if code, output := pillion(t, "check", "-c", path); code != 0 || !strings.Contains(output, "ok") {
		t.Errorf("exit %d: %s", code, output)
	}
}

// A bad edit while it runs keeps what was good, and is said once, with its place.
func TestABadEditKeepsWhatWasGood(t *testing.T) {
	t.Parallel()

	app := startEcho(t)
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(app)}})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh})
	ping(t, sidecar.Outbound)

	mesh.Replace(t, "services:\n  app: {endpoints: [{adress: \"127.0.0.1:1\"}]}\n")
	sidecar.Await(t, `mesh\.yaml:2:\d+: .*adress.*address`)
	ping(t, sidecar.Outbound)
	if page := sidecar.Get(t, "/config"); !strings.Contains(page, "adress") {
		t.Errorf("/config does not say what is wrong with the file:\n%s", page)
	}

	other := startEcho(t)
	mesh.Set(t, "app", harness.Service{Endpoints: harness.Endpoints(other)})
	ping(t, sidecar.Outbound)
}

// What is no HTTP/2 at all, or stops in the middle, harms nobody else.
func TestNoiseOnThePorts(t *testing.T) {
	t.Parallel()

	sidecar := harness.Outbound(t, startEcho(t))
	for _, noise := range []string{
		"", "\x00", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n", strings.Repeat("\xff", 100_000),
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100_000),
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	} {
		connection, err := net.Dial("tcp", sidecar.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		// It may be closed while it is being written to.
		_, _ = connection.Write([]byte(noise))
		_ = connection.Close()
	}
	ping(t, sidecar.Outbound)
}
