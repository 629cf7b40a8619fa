package experiment

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// takeover is of an experiment whose variants only have names, all of whose users take
// part.
const takeover = `
experiments:
- name: button
  service: shop
  unit: {metadata: x-user}
  variants: [{name: blue, weight: 5000}, {name: green, weight: 5000}]
  measures: [{success: {}}, {latency: {}}, {reported: revenue}, {reported: rpcs, per_unit: sum}]
`

// soon is how long a takeover may take at most without Consul, on a busy machine: it waits
// for the second that Consul would take, and half a one for who comes first.
const soon = 5 * time.Second

// TestElectedSidecarIsKilled is of an experiment of which nothing is lost when the sidecar
// is killed that added all up, and when the next one is restarted, which has counted too.
func TestElectedSidecarIsKilled(t *testing.T) {
	t.Parallel()
	var endpoints []harness.Endpoint
	for _, version := range []string{"v1", "v1"} {
		endpoints = append(endpoints, harness.Endpoint{Address: startApp(t, version).address})
	}
	file := harness.NewMesh(t, map[string]harness.Service{service: {Endpoints: endpoints, TLS: "off"}})
	dir := filepath.Join(t.TempDir(), "control")
	store, err := dirkv.Open(dir, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := startMesh(t, store, []string{"--control", dir},
		map[string]any{"file": map[string]any{"path": file.Path}}, map[string]any{"dir": dir})
	m.pillion(t, "experiment", "start", button, "-f", write(t, takeover), "-m", "by a folder")
	first := m.awaitElected(t, -1)
	c := startCallers(t, m)
	all := users(400)
	// What the first one counts itself would be lost with it, but for what it had written.
	others := []int{(first + 1) % sidecars, (first + 2) % sidecars}
	c.round(400, all, func(u user) int { return others[u.number%2] })
	m.sidecars[first].Kill()
	killed := time.Now()
	second := m.awaitElected(t, first)
	if took := time.Since(killed); took > soon {
		t.Errorf("another sidecar was elected after %v, want within %v", took, soon)
	} else {
		t.Logf("another sidecar was elected after %v", took.Round(time.Millisecond))
	}
	c.round(400, all, func(u user) int { return others[(u.number+1)%2] })
	m.awaitComplete(t, c, button, others[0])

	// All go by the other one, while the second is restarted.
	third := sidecars - first - second
	m.end(t, second)
	c.round(400, all[:200], func(user) int { return third })
	m.begin(t, second)
	c.round(400, all[:100], func(u user) int { return others[u.number%2] })
	a := m.awaitComplete(t, c, button, second)
	if a.Units != len(all) || a.SampleRatio.Mismatch {
		t.Errorf("of %d users there are %d in the report: %+v", len(all), a.Units, a.SampleRatio)
	}
	if verdict := measureOf(t, a, "revenue").Comparisons[0]; verdict.Verdict != better || verdict.Interval.Low > effect || verdict.Interval.High < effect {
		t.Errorf("revenue: %+v", verdict)
	}
	m.pillion(t, "experiment", "stop", button)
	consul.Eventually(t, "the report of its end is in the folder", func() bool {
		after := m.report(t, button, first) // which is gone
		return after != nil && after.Phase == "ended" && differs(after, c.sumsOf(button)) == ""
	})
}
