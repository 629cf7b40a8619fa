// Package consul runs real Consul agents for tests, and holds the tests of the
// Consul source and of the registration against them. It starts no sidecar.
package consul

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// patience bounds every wait for an agent: a busy machine is slow.
const patience = 60 * time.Second

// ManagementToken is the token that may do everything at an agent with ACLs.
const ManagementToken = "8a1c5c7e-55ad-4b3b-9a65-3a7b0f5b2f10"

// Agent is a real Consul agent that is its own server: one data centre, dc1. It
// keeps its ports and its data directory over restarts. It ends with the test.
type Agent struct {
	// Address is the "host:port" of its HTTP API.
	Address string
	// Client speaks to it with the management token, if there are ACLs.
	Client *api.Client

	program string
	config  string
	process *harness.Process
}

// Option changes an agent's configuration.
type Option func(config map[string]any)

// WithACLs turns ACLs on: what no rule allows is denied, and ManagementToken may
// do everything.
func WithACLs() Option {
	return func(config map[string]any) {
		config["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny", "enable_token_persistence": true,
			"tokens": map[string]any{"initial_management": ManagementToken, "agent": ManagementToken},
		}
	}
}

// WithLimits sets entries of the agent's limits, such as
// "http_max_conns_per_client".
func WithLimits(limits map[string]any) Option {
	return func(config map[string]any) { config["limits"] = limits }
}

// WithConnect turns Connect on, with its CA configured so, such as "LeafCertTTL"
// beside "SkipValidate"; nil for the defaults.
func WithConnect(ca map[string]any) Option {
	return func(config map[string]any) {
		connect := map[string]any{"enabled": true}
		if ca != nil {
			connect["ca_config"] = ca
		}
		config["connect"] = connect
	}
}

// WithDefaultIntention says what holds where no intention does, whatever the ACLs'
// default: "allow" or "deny".
func WithDefaultIntention(policy string) Option {
	return func(config map[string]any) { config["default_intention_policy"] = policy }
}

// New prepares an agent that does not run yet. The test is skipped, with the
// reason, where there is no consul in the folder that PILLION_TOOLS names.
func New(t testing.TB, options ...Option) *Agent {
	t.Helper()

	program := harness.Tool(t, "consul")
	dir := t.TempDir()
	port := harness.FreePort(t)
	config := map[string]any{
		"server": true, "bootstrap_expect": 1,
		"node_name": "node1", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
		"data_dir":    filepath.Join(dir, "data"),
		"performance": map[string]any{"raft_multiplier": 1},
		"ports": map[string]int{
			"http": port, "server": harness.FreePort(t), "serf_lan": harness.FreePort(t),
			"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
		},
		"disable_update_check": true, "disable_anonymous_signature": true,
		// Without these an agent that is asked to end takes its services along.
		"leave_on_terminate": false, "skip_leave_on_interrupt": true,
	}
	for _, option := range options {
		option(config)
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	agent := &Agent{
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		program: program, config: filepath.Join(dir, "consul.json"),
	}
	if err := os.WriteFile(agent.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := &api.Config{Address: agent.Address}
	if config["acl"] != nil {
		settings.Token = ManagementToken
	}
	if agent.Client, err = api.NewClient(settings); err != nil {
		t.Fatal(err)
	}

	return agent
}

// Start is New, and starts the agent.
func Start(t testing.TB, options ...Option) *Agent {
	t.Helper()

	agent := New(t, options...)
	agent.Start(t)

	return agent
}

// Start starts the agent and waits until it can be used.
func (a *Agent) Start(t testing.TB) {
	t.Helper()

	a.process = harness.Start(t, harness.Command{
		Path: a.program, Args: []string{"agent", "-config-file=" + a.config},
		// What the tester has set for an agent of their own.
		Env: []string{"CONSUL_HTTP_ADDR=", "CONSUL_HTTP_TOKEN=", "CONSUL_NAMESPACE="},
	})
	// A leader, and this node in the catalogue: nothing can be found before.
	Eventually(t, "the agent at "+a.Address+" can be used", func() bool {
		leader, err := a.Client.Status().Leader()
		if err != nil || leader == "" {
			return false
		}
		nodes, _, err := a.Client.Catalog().Nodes(nil)

		return err == nil && len(nodes) > 0
	})
}

// PID is the process of the agent.
func (a *Agent) PID() int { return a.process.PID() }

// Kill ends the agent as a crash does.
func (a *Agent) Kill() { a.process.Kill() }

// Forget takes away all that an agent knows which does not run: it comes back empty.
func (a *Agent) Forget(t testing.TB) {
	t.Helper()

	if err := os.RemoveAll(filepath.Join(filepath.Dir(a.config), "data")); err != nil {
		t.Fatal(err)
	}
}

// Restart ends the agent as a crash does, and starts it again.
func (a *Agent) Restart(t testing.TB) {
	t.Helper()

	a.Kill()
	a.Start(t)
}

// Token makes a token with a policy of these rules.
func (a *Agent) Token(t testing.TB, rules string) string {
	t.Helper()

	var secret string
	// The ACL system starts a moment after the leader does.
	Eventually(t, "a token can be made", func() bool {
		policy, _, err := a.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: "p" + strconv.FormatInt(time.Now().UnixNano(), 36), Rules: rules}, nil)
		if err != nil {
			return false
		}
		token, _, err := a.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: policy.ID}}}, nil)
		if err != nil {
			return false
		}
		secret = token.SecretID

		return true
	})

	return secret
}

// Eventually waits until something outside the test's process holds that can
// only be asked for.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}
