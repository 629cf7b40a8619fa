package soak

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// ownConnection marks the series of the connection within the process to what
// answers reflection of the mesh: it is made once and kept.
const ownConnection = `service="pillion-mesh-reflection"`

// observed is a sidecar that lives through the whole run.
type observed struct {
	*harness.Sidecar

	name string
	// log is the file of its access log.
	log string
}

// sample is what a sidecar said of itself at a time.
type sample struct {
	At      time.Duration
	Process string
	// In bytes.
	Resident, Heap, Buffered float64

	Goroutines, FDs, Downstream, Upstream, InFlight float64
}

// sample asks the sidecar's metrics.
func (o *observed) sample(t testing.TB, began time.Time) sample {
	t.Helper()

	s := sample{At: time.Since(began), Process: o.name}
	sums := map[string]*float64{
		"process_resident_memory_bytes":  &s.Resident,
		"go_memstats_heap_inuse_bytes":   &s.Heap,
		"pillion_buffered_bytes":         &s.Buffered,
		"go_goroutines":                  &s.Goroutines,
		"process_open_fds":               &s.FDs,
		"pillion_downstream_connections": &s.Downstream,
		"pillion_upstream_connections":   &s.Upstream,
		"pillion_rpcs_in_flight":         &s.InFlight,
	}
	found := map[string]bool{}
	for line := range strings.Lines(o.Get(t, "/metrics")) {
		name := line[:strings.IndexAny(line, "{ \n")]
		sum := sums[name]
		if sum == nil || strings.Contains(line, ownConnection) {
			continue
		}
		fields := strings.Fields(line)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		*sum += value
		found[name] = true
	}
	// The connections appear with the first one of a service.
	found["pillion_upstream_connections"] = true
	if len(found) != len(sums) {
		t.Fatalf("of the metrics of %s there are only %v", o.name, found)
	}

	return s
}

// rest is what is left in a sidecar where nothing is going on.
type rest struct {
	Goroutines, FDs int
	// Live is the heap after a garbage collection, in bytes.
	Live int
	// InFlight, Buffered, Downstream and Upstream as in [sample].
	InFlight, Buffered, Downstream, Upstream int
}

// rest measures what is left. What belongs to kept connections to Consul's agent
// is left out: how many there are is the agent's and time's affair.
func (o *observed) rest(t testing.TB) rest {
	t.Helper()

	s := o.sample(t, time.Now())
	goroutines, kept := countGoroutines(o.Get(t, "/debug/pprof/goroutine?debug=1"))

	return rest{
		Goroutines: goroutines - kept, FDs: int(s.FDs) - kept/2,
		InFlight: int(s.InFlight), Buffered: int(s.Buffered), Downstream: int(s.Downstream), Upstream: int(s.Upstream),
	}
}

// live is the sidecar's heap after a garbage collection, in bytes.
func (o *observed) live(t testing.TB) int {
	t.Helper()

	// The first collection empties the pools into their victims, the second those.
	o.Get(t, "/debug/pprof/heap?gc=1&debug=1")
	page := o.Get(t, "/debug/pprof/heap?gc=1&debug=1")
	var bytes int
	at := strings.Index(page, "# HeapAlloc = ")
	if at < 0 {
		t.Fatalf("the heap's profile of %s has no HeapAlloc", o.name)
	}
	if _, err := fmt.Sscanf(page[at:], "# HeapAlloc = %d", &bytes); err != nil {
		t.Fatalf("the heap's profile of %s: %v", o.name, err)
	}

	return bytes
}

// countGoroutines reads a profile in text: how many goroutines there are, and how
// many of them belong to connections of net/http's client, two to each.
func countGoroutines(profile string) (all, kept int) {
	lines := bufio.NewScanner(strings.NewReader(profile))
	lines.Buffer(nil, len(profile)+1)
	count, counted := 0, false
	for lines.Scan() {
		line := lines.Text()
		if number, _, found := strings.Cut(line, " @"); found {
			if n, err := strconv.Atoi(number); err == nil {
				count, counted = n, false
				all += n
			}
		}
		if !counted && strings.Contains(line, "net/http.(*persistConn).") {
			kept += count
			counted = true
		}
	}

	return all, kept
}
