package spire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

const (
	trustDomain = "spire.test"
	// node is the agent's own ID, to which those of its workloads belong.
	node = "spiffe://" + trustDomain + "/node"
	// lifetime is that of certificates, in seconds: an agent renews them at half of it.
	lifetime = 20
)

func idOf(service string) string { return "spiffe://" + trustDomain + "/svc/" + service }

// spire is a server with one agent, both on this machine.
type spire struct {
	server, folder string
	// socket is the Workload API's, as Pillion is told.
	socket string
}

// start starts both. The test is skipped where PILLION_SPIRE does not name the folder
// with the programs.
func start(t testing.TB) *spire {
	t.Helper()

	programs := os.Getenv("PILLION_SPIRE")
	if programs == "" {
		t.Skip("PILLION_SPIRE does not name a folder with spire-server and spire-agent: make spire")
	}
	s := &spire{server: filepath.Join(programs, "spire-server"), folder: harness.SocketFolder(t)}
	port := harness.FreePort(t)
	harness.Start(t, harness.Command{Path: s.server, Args: []string{"run", "-config", s.config(t, "server", fmt.Sprintf(`
server {
	bind_address = "127.0.0.1"
	bind_port = %d
	socket_path = %q
	trust_domain = %q
	data_dir = %q
	default_x509_svid_ttl = "%ds"
	ca_ttl = "1h"
}
plugins {
	DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = %q } }
	NodeAttestor "join_token" { plugin_data {} }
	KeyManager "memory" { plugin_data {} }
}
`, port, s.admin(), trustDomain, s.folder, lifetime, filepath.Join(s.folder, "server.sqlite3")))}})
	consul.Eventually(t, "SPIRE's server is healthy", func() bool {
		return exec.CommandContext(t.Context(), s.server, "healthcheck", "-socketPath", s.admin()).Run() == nil
	})

	var token struct{ Value string }
	if err := json.Unmarshal(s.ask(t, "token", "generate", "-spiffeID", node, "-output", "json"), &token); err != nil || token.Value == "" {
		t.Fatalf("SPIRE's join token: %v", err)
	}
	api := filepath.Join(s.folder, "agent")
	s.socket = "unix://" + api
	agent := filepath.Join(programs, "spire-agent")
	harness.Start(t, harness.Command{Path: agent, Args: []string{"run", "-config", s.config(t, "agent", fmt.Sprintf(`
agent {
	server_address = "127.0.0.1"
	server_port = %d
	socket_path = %q
	trust_domain = %q
	data_dir = %q
	insecure_bootstrap = true
	join_token = %q
}
plugins {
	NodeAttestor "join_token" { plugin_data {} }
	KeyManager "memory" { plugin_data {} }
	WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
`, port, api, trustDomain, s.folder, token.Value))}})
	consul.Eventually(t, "SPIRE's agent is healthy", func() bool {
		return exec.CommandContext(t.Context(), agent, "healthcheck", "-socketPath", api).Run() == nil
	})

	return s
}

// admin is the socket of the server's own API.
func (s *spire) admin() string { return filepath.Join(s.folder, "server") }

func (s *spire) config(t testing.TB, name, text string) string {
	t.Helper()

	path := filepath.Join(s.folder, name+".conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	return path
}

// ask gives the server a command and returns what it answers.
func (s *spire) ask(t testing.TB, command ...string) []byte {
	t.Helper()

	cmd := exec.CommandContext(t.Context(), s.server, append(command, "-socketPath", s.admin())...)
	out, err := cmd.Output()
	if err != nil {
		if exit, is := errors.AsType[*exec.ExitError](err); is {
			t.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, out, exit.Stderr)
		}
		t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}

	return out
}

// entitle gives a program's processes the IDs of services.
func (s *spire) entitle(t testing.TB, program string, services ...string) {
	t.Helper()

	for _, service := range services {
		s.ask(t, "entry", "create", "-parentID", node, "-spiffeID", idOf(service), "-selector", "unix:path:"+program)
	}
}

// program is a Pillion of its own path, by which SPIRE knows it.
func program(t testing.TB, name string) string {
	t.Helper()

	from, err := filepath.EvalSymlinks(harness.Pillion(t))
	if err != nil {
		t.Fatal(err)
	}
	// The system may itself keep temporary files behind a link.
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(folder, name)
	if err := copyFile(from, to); err != nil {
		t.Fatal(err)
	}

	return to
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(0o755))
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)

	return errors.Join(err, target.Close())
}

// identity is a bootstrap's, from SPIRE.
func (s *spire) identity(more map[string]any) map[string]any {
	spiffe := map[string]any{"socket": s.socket}
	maps.Copy(spiffe, more)

	return map[string]any{"spiffe": spiffe}
}
