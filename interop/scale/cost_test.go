package scale

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cost is what processes have taken up to a moment.
type cost struct {
	at          time.Time
	consul, own time.Duration // of CPU
	reading     reading
}

// tick is how finely Linux tells the CPU time of others.
const tick = 10 * time.Millisecond

func (f *fleet) cost(t testing.TB) cost {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.agent.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		t.Fatal(err)
	}
	return cost{
		at: time.Now(), consul: time.Duration(user+system) * tick, reading: f.wire.read(),
		own: time.Duration(own.Utime.Nano() + own.Stime.Nano()),
	}
}

// taken is what was taken between two moments.
type taken struct {
	sidecars    int
	took        time.Duration
	consul, own time.Duration
	kinds       map[string]int // requests, by what they are for
	bytes       int64
}

func (c cost) until(then cost, sidecars int) taken {
	d := taken{
		sidecars: sidecars, took: then.at.Sub(c.at), consul: then.consul - c.consul, own: then.own - c.own,
		kinds: map[string]int{}, bytes: then.reading.bytes - c.reading.bytes,
	}
	for kind, n := range then.reading.kinds {
		if n -= c.reading.kinds[kind]; n > 0 {
			d.kinds[kind] = n
		}
	}
	return d
}

func (d taken) requests() (n int) {
	for _, of := range d.kinds {
		n += of
	}
	return n
}

func (d taken) String() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(d.kinds)) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, d.kinds[kind]))
	}
	return fmt.Sprintf("in %v: Consul's CPU %v, the sidecars' %v (%.2f ms each); %d requests (%.2f/s for each sidecar: %s); %.1f MB of answers",
		round(d.took), d.consul, round(d.own), 1e3*d.own.Seconds()/float64(d.sidecars),
		d.requests(), float64(d.requests())/d.took.Seconds()/float64(d.sidecars), strings.Join(parts, ", "), float64(d.bytes)/1e6)
}

// sockets counts the open files of Consul's agent.
func (f *fleet) sockets() int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", f.agent.PID()))
	return len(list)
}

// resident is the memory that Consul's agent has, in bytes.
func (f *fleet) resident() int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.agent.PID()))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb << 10
		}
	}
	return 0
}

// memory is what this process has in use, its stacks included.
func memory() int {
	runtime.GC()
	runtime.GC() // what the first one found to be finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
