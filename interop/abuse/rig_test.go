package abuse

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// patience bounds every wait.
const patience = 60 * time.Second

// rig is a sidecar, the app behind it, and well-behaved clients' RPCs through it.
type rig struct {
	sidecar *harness.Sidecar
	// behind is the sidecar that the attacked one talks to, if any: what is done to
	// the one must not reach the other, nor come between the two.
	behind *harness.Sidecar
	// port is what is attacked.
	port string
	load *load.Load
	// plain says that the sidecar is built as users get it, so that its memory
	// says something.
	plain bool
}

// Sides of a sidecar.
const (
	outbound = "outbound" // with an inbound one behind it
	inbound  = "inbound"
)

// others is the service that well-behaved clients of the outbound side call: what
// becomes of the attacked one is not theirs to feel.
const others = "others"

// startRig starts a sidecar with one side, the load through it included.
// settings are top-level fields of its bootstrap.
func startRig(t testing.TB, side string, plain bool, settings map[string]any) *rig {
	t.Helper()

	binary := harness.Pillion(t)
	if plain {
		binary = harness.PlainPillion(t)
	}
	beside := harness.Config{
		Binary: binary, Service: harness.RouteService, App: startVictim(t), Mesh: harness.NewMesh(t, nil),
	}
	r := &rig{plain: plain}
	switch side {
	case outbound:
		r.behind = harness.StartSidecar(t, beside)
		r.sidecar = harness.StartSidecar(t, harness.Config{
			Binary: binary, Outbound: true, Default: others, Settings: settings,
			Mesh: harness.NewMesh(t, map[string]harness.Service{
				harness.RouteService: {Endpoints: harness.Endpoints(r.behind.Inbound)},
				others:               {Endpoints: harness.Endpoints(load.StartApp(t, others, "").Address)},
			}),
		})
		r.port = r.sidecar.Outbound
	case inbound:
		beside.Settings = settings
		r.sidecar = harness.StartSidecar(t, beside)
		r.port = r.sidecar.Inbound
	}
	r.load = load.Start(t, load.Dial(t, r.port), load.Options{PerSecond: 100, StreamEvery: 10})
	r.load.More(t, 0)

	return r
}

// during runs something, fails the test where the load or the memory suffered,
// and returns the memory's peak in bytes.
func (r *rig) during(t *testing.T, memory int64, what func()) (peak int64) {
	t.Helper()

	sidecars := []*harness.Sidecar{r.sidecar}
	if r.behind != nil {
		sidecars = append(sidecars, r.behind)
	}
	for _, sidecar := range sidecars {
		resetPeak(t, sidecar.PID())
	}
	before, _ := r.load.Failed()
	what()
	if failed, errs := r.load.Failed(); failed > before {
		t.Errorf("%d RPCs of others failed, of all that did the first: %v", failed-before, errs)
	}
	if r.behind != nil && strings.Contains(r.behind.Output(), "a caller's connection was ended") {
		t.Error("the sidecar behind the attacked one has ended the connection between them")
	}
	for _, sidecar := range sidecars {
		select {
		case <-sidecar.Done():
			t.Fatal("a sidecar has ended")
		default:
		}
		now := peakMemory(t, sidecar.PID())
		if r.plain && memory > 0 && now > memory {
			t.Errorf("a sidecar had up to %d MiB resident, want at most %d MiB", now>>20, memory>>20)
		}
		peak = max(peak, now)
	}

	return peak
}

// resetPeak makes the kernel count the peak of a process's memory anew (proc(5),
// clear_refs).
func resetPeak(t testing.TB, pid int) {
	t.Helper()

	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// peakMemory is the most that a process had resident, in bytes.
func peakMemory(t testing.TB, pid int) int64 {
	t.Helper()

	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}

			return kilobytes << 10
		}
	}
	t.Fatalf("no VmHWM in\n%s", text)

	return 0
}
