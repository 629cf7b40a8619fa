package experiment

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// service is what callers call.
const service = "shop"

// sidecars is how many there are of callers.
const sidecars = 3

// mesh is the sidecars of callers. They speak mutual TLS among each other, and plaintext
// with the apps, which have none.
type mesh struct {
	store    kv.Store
	flags    []string // for commands, to find the store
	configs  []harness.Config
	sidecars []*harness.Sidecar
}

// startMesh starts the sidecars, with a registry, and control, that each has. Each has a
// folder of its own for what it keeps.
func startMesh(t *testing.T, store kv.Store, flags []string, registry, control map[string]any) *mesh {
	t.Helper()

	m := &mesh{store: store, flags: flags}
	ca := harness.NewCA(t)
	for i := range sidecars {
		listen := harness.FreeAddress(t)
		own := map[string]any{"state_dir": filepath.Join(t.TempDir(), "state")}
		maps.Copy(own, control)
		m.configs = append(m.configs, harness.Config{
			Binary: harness.PlainPillion(t), Outbound: true, OutboundListen: listen,
			Service: "web", App: harness.FreeAddress(t), InboundListen: harness.FreeAddress(t), AdminListen: harness.FreeAddress(t),
			Settings: map[string]any{
				"outbound": map[string]any{"listen": listen, "default_service": service, "tls": "permissive"},
				"service":  map[string]any{"name": "web", "id": m.id(i), "address": harness.FreeAddress(t), "health_check": map[string]any{"disabled": true}},
				"identity": ca.Identity("web"),
				"registry": registry,
				"control":  own,
			},
		})
		m.sidecars = append(m.sidecars, harness.StartSidecar(t, m.configs[i]))
	}

	return m
}

func (m *mesh) id(i int) string { return fmt.Sprintf("web-%d", i) }

// end asks a sidecar to end, and waits until it has.
func (m *mesh) end(t *testing.T, i int) {
	t.Helper()

	m.sidecars[i].Signal(t, syscall.SIGTERM)
	if code := m.sidecars[i].Wait(t); code != 0 {
		t.Errorf("sidecar %d: exit %d:\n%s", i, code, m.sidecars[i].Output())
	}
}

// begin starts a sidecar again, as it was.
func (m *mesh) begin(t *testing.T, i int) {
	t.Helper()

	m.sidecars[i] = harness.StartSidecar(t, m.configs[i])
}

// outbounds are where callers dial.
func (m *mesh) outbounds() (list []string) {
	for _, c := range m.configs {
		list = append(list, c.OutboundListen)
	}

	return list
}

// pillion runs a command against the store, and returns what it prints.
func (m *mesh) pillion(t *testing.T, args ...string) string {
	t.Helper()

	code, output := m.try(t, args...)
	if code != 0 {
		t.Fatalf("pillion %s: exit %d:\n%s", strings.Join(args, " "), code, output)
	}

	return output
}

func (m *mesh) try(t *testing.T, args ...string) (code int, output string) {
	t.Helper()

	return harness.Run(t, harness.Command{Path: harness.PlainPillion(t), Args: append(args, m.flags...)})
}

// write writes documents into a file of the test's own.
func write(t *testing.T, yaml string) (path string) {
	t.Helper()

	path = filepath.Join(t.TempDir(), "documents.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}

	return path
}

// elected returns which of the sidecars is elected; -1: none is.
func (m *mesh) elected(t *testing.T) int {
	t.Helper()

	e, err := m.store.Get(t.Context(), control.LeaderKey(service))
	if errors.Is(err, kv.ErrNotFound) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	leader := &controlv1.Leader{}
	if err := protojson.Unmarshal(e.Value, leader); err != nil {
		t.Fatal(err)
	}
	for i := range sidecars {
		if m.id(i) == leader.GetId() {
			return i
		}
	}

	return -1
}

// awaitElected waits until a sidecar is elected, another one than before.
func (m *mesh) awaitElected(t *testing.T, before int) (now int) {
	t.Helper()

	consul.Eventually(t, "a sidecar is elected", func() bool {
		now = m.elected(t)

		return now >= 0 && now != before
	})

	return now
}

// report returns an experiment's report by way of a sidecar; nil: there is none yet.
func (m *mesh) report(t *testing.T, name string, by int) *analysis {
	t.Helper()

	code, output := m.try(t, "experiment", "report", name, "-o", "json", "--admin", m.configs[by].AdminListen)
	if code != 0 {
		t.Logf("no report: %s", output)

		return nil
	}

	return read[analysis](t, output)
}

// awaitComplete waits until a report has all that callers know of.
func (m *mesh) awaitComplete(t *testing.T, c *callers, name string, by int) *analysis {
	t.Helper()

	want := c.sumsOf(name)
	var (
		a    *analysis
		why  string
		from = time.Now()
	)
	for {
		if a = m.report(t, name, by); a != nil {
			if why = differs(a, want); why == "" {
				t.Logf("%s: %d units are complete after %v", name, a.Units, time.Since(from).Round(time.Millisecond))

				return a
			}
		}
		if time.Since(from) > settled {
			t.Fatalf("%s: after %v the report is not what callers know: %s", name, settled, why)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// settled is how long it may take until all is reported: it is every two seconds.
const settled = 15 * time.Second
