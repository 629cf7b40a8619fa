package entries

import (
	"encoding/json"
	"io"
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
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// mesh is a Consul, instances of all services, and two callers: an app beside an Envoy
// that Consul configures, and one beside a Pillion.
type mesh struct {
	agent *consul.Agent
	grpc  string // where the agent serves xDS
	apps  map[string]*instance

	envoy   map[string]*grpc.ClientConn // by the service that is called
	pillion map[string]*grpc.ClientConn
	sidecar *harness.Sidecar
	// policies are the Pillion's own, in YAML.
	policies string
}

// The versions that there are of each service; no instance of silent ever answers.
const v1, v2, silent = "v1", "v2", "silent"

// The services whose apps call.
const envoyCaller, pillionCaller = "web", "pillion-web"

func startMesh(t *testing.T, options ...consul.Option) *mesh {
	t.Helper()
	harness.Tool(t, "envoy")
	port := harness.FreePort(t)
	m := &mesh{grpc: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), envoy: map[string]*grpc.ClientConn{}, pillion: map[string]*grpc.ClientConn{}}
	m.agent = consul.Start(t, append(options, func(config map[string]any) {
		config["connect"] = map[string]any{"enabled": true}
		config["ports"].(map[string]int)["grpc"] = port
	})...)
	m.write(t, &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "grpc"}})
	m.apps = map[string]*instance{v1: startInstance(t, v1, m.agent.Client), v2: startInstance(t, v2, m.agent.Client)}
	return m
}

func (m *mesh) write(t testing.TB, entry api.ConfigEntry) {
	t.Helper()
	if _, _, err := m.agent.Client.ConfigEntries().Set(entry, nil); err != nil {
		t.Fatalf("%s %s: %v", entry.GetKind(), entry.GetName(), err)
	}
}

// writeAll writes entries, some of which Consul takes only once it has others.
func (m *mesh) writeAll(t testing.TB, entries []api.ConfigEntry) {
	t.Helper()
	for len(entries) > 0 {
		var left []api.ConfigEntry
		var why error
		for _, entry := range entries {
			if _, _, err := m.agent.Client.ConfigEntries().Set(entry, nil); err != nil {
				left, why = append(left, entry), err
			}
		}
		if len(left) == len(entries) {
			t.Fatal(why)
		}
		entries = left
	}
}

// calling writes what the service-defaults of the callers say of those that they call.
func (m *mesh) calling(t testing.TB, config *api.UpstreamConfiguration) {
	t.Helper()
	for _, caller := range []string{envoyCaller, pillionCaller} {
		m.write(t, &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: caller, Protocol: "grpc", UpstreamConfig: config})
	}
}

// listenSilently takes connections, and never says a word.
func listenSilently(t testing.TB) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the system takes them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return portOf(t, l.Addr().String())
}

// register registers an instance of a service.
func (m *mesh) register(t testing.TB, service, version, status string, port int) {
	t.Helper()
	register(t, m.agent, service, version, status, port)
}

func register(t testing.TB, agent *consul.Agent, service, version, status string, port int) {
	t.Helper()
	r := &api.AgentServiceRegistration{
		ID: service + "-" + version, Name: service, Address: "127.0.0.1", Port: port,
		Meta: map[string]string{"version": version}, Tags: []string{"is-" + version},
		Connect: &api.AgentServiceConnect{Native: true},
	}
	if status != "" {
		r.Check = &api.AgentServiceCheck{TTL: "1h", Status: status}
	}
	if err := agent.Client.Agent().ServiceRegister(r); err != nil {
		t.Fatal(err)
	}
}

// call starts the callers of these services.
func (m *mesh) call(t *testing.T, services []string) {
	t.Helper()
	public, admin := harness.FreeAddress(t), harness.FreeAddress(t)
	ports := map[string]string{}
	var upstreams []api.Upstream
	for _, service := range services {
		ports[service] = harness.FreeAddress(t)
		upstreams = append(upstreams, api.Upstream{DestinationName: service, LocalBindAddress: "127.0.0.1", LocalBindPort: portOf(t, ports[service])})
	}
	err := m.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: envoyCaller, Address: "127.0.0.1", Port: 9,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Address: "127.0.0.1", Port: portOf(t, public),
			Check: &api.AgentServiceCheck{TTL: "1h", Status: api.HealthPassing},
			Proxy: &api.AgentServiceConnectProxyConfig{LocalServiceAddress: "127.0.0.1", Upstreams: upstreams},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := filepath.Join(t.TempDir(), "web.json")
	out, err := exec.CommandContext(t.Context(), harness.Tool(t, "consul"), "connect", "envoy", "-bootstrap", "-ignore-envoy-compatibility",
		"-sidecar-for="+envoyCaller, "-http-addr="+m.agent.Address, "-grpc-addr="+m.grpc, "-admin-bind="+admin).Output()
	if err != nil || !json.Valid(out) {
		t.Fatalf("consul connect envoy: %v\n%s", err, out)
	}
	if err := os.WriteFile(bootstrap, out, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Start(t, harness.Command{
		Path: harness.Tool(t, "envoy"),
		Args: []string{"-c", bootstrap, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"},
	})
	policies := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(policies, []byte("policies: ["+m.policies+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.sidecar = harness.StartSidecar(t, harness.Config{
		Outbound: true,
		Settings: map[string]any{
			// A candidate for those that decide on canaries is one that others reach.
			"inbound":  map[string]any{"listen": harness.FreeAddress(t)},
			"service":  map[string]any{"name": pillionCaller, "port": 9, "health_check": map[string]any{"disabled": true}},
			"registry": map[string]any{"consul": map[string]any{"address": m.agent.Address, "max_connections": 180}},
			"identity": map[string]any{"consul": map[string]any{}, "handshake_timeout": "120s"},
			"control":  map[string]any{},
			"policies": map[string]any{"path": policies},
			// Longer than any test waits: what ends before does so because entries say it.
			"connections": map[string]any{"connect_timeout": "120s"},
		},
	})
	consul.Eventually(t, "the Envoy listens", func() bool {
		listeners := get("http://" + admin + "/listeners")
		for _, address := range ports {
			if !strings.Contains(listeners, address) {
				return false
			}
		}
		return true
	})
	for _, service := range services {
		m.envoy[service] = load.Dial(t, ports[service], grpc.WithAuthority(service))
		m.pillion[service] = load.Dial(t, m.sidecar.Outbound, grpc.WithAuthority(service))
	}
}

func get(url string) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	return string(text)
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

// record writes the compiled chains to the folder that PILLION_RECORD names, which is how
// the tests of package chain get theirs.
func (m *mesh) record(t testing.TB, services []string) {
	t.Helper()
	dir := os.Getenv("PILLION_RECORD")
	if dir == "" {
		return
	}
	for _, service := range services {
		var answer json.RawMessage
		if _, err := m.agent.Client.Raw().Query("/v1/discovery-chain/"+service, &answer, nil); err != nil {
			t.Fatal(err)
		}
		var pretty strings.Builder
		encoder := json.NewEncoder(&pretty)
		encoder.SetIndent("", " ")
		if err := encoder.Encode(answer); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, service+".json"), []byte(pretty.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
