package canary

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// mesh is a service in two versions, and the sidecars of those who call it.
type mesh struct {
	agent    *consul.Agent
	service  string
	v1       []*app
	v2       *app
	sidecars []*harness.Sidecar // of callers
	ids      []string
}

// startMesh starts so many sidecars of callers. They speak mutual TLS among each other,
// report to the elected one by it, and plaintext with the app, which has no sidecar.
func startMesh(t *testing.T, agent *consul.Agent, service string, sidecars int) *mesh {
	t.Helper()

	m := &mesh{agent: agent, service: service, v2: startApp(t, agent, service, "v2")}
	for range 2 {
		m.v1 = append(m.v1, startApp(t, agent, service, "v1"))
	}
	ca := harness.NewCA(t)
	for i := range sidecars {
		id := fmt.Sprintf("%s-web-%d", service, i)
		name, listen := service+"-web", harness.FreeAddress(t)
		m.ids = append(m.ids, id)
		m.sidecars = append(m.sidecars, harness.StartSidecar(t, harness.Config{
			Binary: harness.PlainPillion(t), Outbound: true, OutboundListen: listen,
			Service: name, App: harness.FreeAddress(t), InboundListen: harness.FreeAddress(t),
			Settings: map[string]any{
				"outbound": map[string]any{"listen": listen, "default_service": service, "tls": "permissive"},
				"service":  map[string]any{"name": name, "id": id, "address": harness.FreeAddress(t), "health_check": map[string]any{"disabled": true}},
				"identity": ca.Identity(name),
				"registry": map[string]any{"consul": map[string]any{"address": agent.Address, "cache_dir": filepath.Join(t.TempDir(), "cache")}},
				"control":  map[string]any{"consul_entries": false},
			},
		}))
	}

	return m
}

// addresses are where callers dial.
func (m *mesh) addresses() (list []string) {
	for _, s := range m.sidecars {
		list = append(list, s.Outbound)
	}

	return list
}

// pillion runs a command against the store, and returns what it prints.
func (m *mesh) pillion(t *testing.T, args ...string) string {
	t.Helper()

	code, output := harness.Run(t, harness.Command{
		Path: harness.PlainPillion(t), Args: append(args, "--consul", m.agent.Address),
	})
	if code != 0 {
		t.Fatalf("pillion %s: exit %d:\n%s", strings.Join(args, " "), code, output)
	}

	return output
}

// apply applies documents, in YAML.
func (m *mesh) apply(t *testing.T, yaml string) {
	t.Helper()

	path := filepath.Join(t.TempDir(), "documents.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(yaml, "SERVICE", m.service)), 0o600); err != nil {
		t.Fatal(err)
	}
	m.pillion(t, "apply", "-f", path, "-m", t.Name())
}

// versions are what canaries are between.
const versions = `
policies:
- name: SERVICE-versions
  service: SERVICE
  subsets: {default: v1, subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
`

// state is where the canary stands, as the store has it; nil: there was no run yet.
func (m *mesh) state(t *testing.T) *controlv1.RunState {
	t.Helper()

	pair, _, err := m.agent.Client.KV().Get("pillion/v1/state/"+m.service+"/canary/"+m.service, nil)
	if err != nil || pair == nil {
		return nil
	}
	state := &controlv1.RunState{}
	if err := protojson.Unmarshal(pair.Value, state); err != nil {
		t.Fatal(err)
	}

	return state
}

// await waits until the canary stands so.
func (m *mesh) await(t *testing.T, what string, holds func(*controlv1.RunState) bool) *controlv1.RunState {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		state := m.state(t)
		if state != nil && holds(state) {
			return state
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not within %v: %s; it stands at %v", patience, what, state)
		}
	}
}

// isIn says that a canary is in a phase, and a step.
func isIn(phase controlv1.Phase, step uint32) func(*controlv1.RunState) bool {
	return func(s *controlv1.RunState) bool { return s.GetPhase() == phase && s.GetStep() >= step }
}

// transitions are when the canary changed, as its history has it.
func (m *mesh) transitions(t *testing.T) (times []time.Time) {
	t.Helper()

	pairs, _, err := m.agent.Client.KV().List("pillion/v1/transitions/"+m.service+"/canary/"+m.service+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range pairs {
		tr := &controlv1.Transition{}
		if err := protojson.Unmarshal(pair.Value, tr); err != nil {
			t.Fatal(err)
		}
		times = append(times, tr.GetState().GetSince().AsTime())
	}

	return times
}

// elected returns which of the sidecars is elected; -1: none is.
func (m *mesh) elected(t *testing.T) int {
	t.Helper()

	pair, _, err := m.agent.Client.KV().Get("pillion/v1/leaders/"+m.service, nil)
	if err != nil || pair == nil {
		return -1
	}
	var leader struct{ ID string }
	if err := json.Unmarshal(pair.Value, &leader); err != nil {
		t.Fatal(err)
	}
	for i, id := range m.ids {
		if id == leader.ID {
			return i
		}
	}

	return -1
}
