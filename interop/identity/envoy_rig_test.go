package identity

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// envoyMesh is a Consul service mesh, in which Consul's own control plane configures
// the Envoys.
type envoyMesh struct {
	agent *consul.Agent
	// grpc is where the agent serves xDS.
	grpc string
	// tls is the version of TLS that Envoys speak when they call.
	tls string
}

// Versions of TLS. An Envoy that calls speaks 1.2 at most, unless Consul's mesh entry has
// it speak 1.3; where it does not, the Pillions have to be told to accept 1.2.
const (
	tls12 = "1.2"
	tls13 = "1.3"
)

// startEnvoyMesh starts an agent with these further settings, for a mesh in which Envoys
// speak at most this version of TLS when they call. The test is skipped where there is no
// Consul or Envoy.
func startEnvoyMesh(t testing.TB, tls string, settings map[string]any) *envoyMesh {
	t.Helper()

	harness.Tool(t, "envoy")
	port := harness.FreePort(t)
	m := &envoyMesh{tls: tls, grpc: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	m.agent = consul.Start(t, func(config map[string]any) {
		config["connect"] = map[string]any{"enabled": true}
		maps.Copy(config, settings)
		config["ports"].(map[string]int)["grpc"] = port
	})
	// Else Consul's Envoys speak TCP: they offer no ALPN, and know no paths.
	m.write(t, &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "grpc"}})
	if tls != tls12 {
		m.write(t, &api.MeshConfigEntry{TLS: &api.MeshTLSConfig{Outgoing: &api.MeshDirectionalTLSConfig{TLSMaxVersion: "TLSv1_3"}}})
	}

	return m
}

// write writes a configuration entry.
func (m *envoyMesh) write(t testing.TB, entry api.ConfigEntry) {
	t.Helper()

	if _, _, err := m.agent.Client.ConfigEntries().Set(entry, nil); err != nil {
		t.Fatalf("%s %s: %v", entry.GetKind(), entry.GetName(), err)
	}
}

// remove removes a configuration entry, if there is such a one.
func (m *envoyMesh) remove(t testing.TB, kind, name string) {
	t.Helper()

	if _, err := m.agent.Client.ConfigEntries().Delete(kind, name, nil); err != nil {
		t.Fatalf("%s %s: %v", kind, name, err)
	}
}

// envoy is the Envoy beside an app.
type envoy struct {
	*harness.Process

	// public is where the mesh reaches it.
	public string
	// upstreams are where the app dials, by the service's name.
	upstreams map[string]string
	admin     string
}

// startEnvoy registers an app and the Envoy beside it, as `connect.sidecar_service` in a
// service's definition does, and starts the Envoy with what Consul says that it needs.
func (m *envoyMesh) startEnvoy(t testing.TB, service, app string, upstreams ...string) *envoy {
	t.Helper()

	e := &envoy{public: harness.FreeAddress(t), admin: harness.FreeAddress(t), upstreams: map[string]string{}}
	var list []api.Upstream
	for _, name := range upstreams {
		e.upstreams[name] = harness.FreeAddress(t)
		list = append(list, api.Upstream{DestinationName: name, LocalBindAddress: "127.0.0.1", LocalBindPort: portOf(t, e.upstreams[name])})
	}
	err := m.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: service, Address: "127.0.0.1", Port: portOf(t, app),
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Address: "127.0.0.1", Port: portOf(t, e.public),
			// Consul's own would first say that it is critical, for up to 10s.
			Check: &api.AgentServiceCheck{TCP: e.public, Interval: "1s", Status: api.HealthPassing},
			Proxy: &api.AgentServiceConnectProxyConfig{LocalServiceAddress: "127.0.0.1", Upstreams: list},
		}},
	})
	if err != nil {
		t.Fatalf("register %s: %v", service, err)
	}

	bootstrap := filepath.Join(t.TempDir(), service+".json")
	if err := os.WriteFile(bootstrap, m.bootstrap(t, service, e.admin), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Process = harness.Start(t, harness.Command{
		Path: harness.Tool(t, "envoy"),
		Args: []string{
			"-c", bootstrap, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning",
			// It refuses by new intentions on new connections alone, and has up to 10 minutes
			// for the old ones.
			"--drain-strategy", "immediate", "--drain-time-s", "1",
		},
	})
	consul.Eventually(t, "the Envoy of "+service+" listens", func() bool {
		listeners := e.get(t, "/listeners")
		for _, address := range e.upstreams {
			if !strings.Contains(listeners, address) {
				return false
			}
		}

		return strings.Contains(listeners, e.public)
	})

	return e
}

// bootstrap is what `consul connect envoy` would start an Envoy with.
func (m *envoyMesh) bootstrap(t testing.TB, service, admin string) []byte {
	t.Helper()

	// Whether it supports this Envoy is not asked: that would have it look for Envoy in PATH.
	cmd := exec.CommandContext(t.Context(), harness.Tool(t, "consul"), "connect", "envoy", "-bootstrap", "-ignore-envoy-compatibility",
		"-sidecar-for="+service, "-http-addr="+m.agent.Address, "-grpc-addr="+m.grpc, "-admin-bind="+admin)
	out, err := cmd.Output()
	if err != nil {
		if exit, is := errors.AsType[*exec.ExitError](err); is {
			t.Fatalf("consul connect envoy: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("consul connect envoy: %v", err)
	}
	if !json.Valid(out) {
		t.Fatalf("consul connect envoy: this is no bootstrap:\n%s", out)
	}

	return out
}

// get asks Envoy's admin port; "" where it does not answer.
func (e *envoy) get(t testing.TB, path string) string {
	t.Helper()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get("http://" + e.admin + path)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}

	return string(text)
}

// startPillion starts the sidecar beside an app, with an identity from Consul's CA.
func (m *envoyMesh) startPillion(t testing.TB, service, app string) *harness.Sidecar {
	t.Helper()

	return harness.StartSidecar(t, harness.Config{
		Outbound: true, Service: service, App: app,
		Settings: map[string]any{
			"service":  map[string]any{"name": service, "port": portOf(t, app), "health_check": map[string]any{"disabled": true}},
			"registry": map[string]any{"consul": map[string]any{"address": m.agent.Address}},
			"identity": map[string]any{"consul": map[string]any{}, "min_tls_version": m.tls},
		},
	})
}

func portOf(t testing.TB, address string) int {
	t.Helper()

	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}

	return port
}
