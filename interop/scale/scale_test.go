package scale

import (
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

// TestScale is the whole story of a mesh, at the size of a test or of `make scale`. A test
// asserts what holds on a busy machine as well: that all obey in the end, and how much is
// asked of Consul for it. The times are for people to read.
func TestScale(t *testing.T) {
	sidecars := []int{60}
	if *full {
		sidecars = []int{100, 300, 1000}
		// Here the sidecars of a thousand machines have two cores. On their own they would
		// collect garbage on their own.
		defer debug.SetGCPercent(debug.SetGCPercent(400))
	}
	for _, n := range sidecars {
		t.Run("sidecars="+strconv.Itoa(n), func(t *testing.T) {
			story(t, size{sidecars: n, services: 20, uses: 4, endpoints: 1, documents: 10})
		})
	}
}

func story(t *testing.T, z size) {
	before, began := memory(), time.Now()
	f := startFleet(t, z)
	t.Logf("begin: all obey what there is after %v; the status says so %v later", round(time.Since(began)), round(f.settles(t)))
	held := int(f.wire.held.Load())
	t.Logf("begin: %d KB for each sidecar; %d requests held (%.1f for each); Consul has %d MB and %d open files",
		(memory()-before)/z.sidecars>>10, held, float64(held)/float64(z.sidecars), f.resident()>>20, f.sockets())
	if held > 12*z.sidecars {
		t.Errorf("%d sidecars hold %d requests", z.sidecars, held)
	}

	f.rests(t)

	changed := []string{service(3)}
	if *full {
		changed = append(changed, hub, "*")
	}
	for _, service := range changed {
		f.changes(t, service)
	}
	f.canary(t)

	f.experiment(t)

	h := f.restart(t, held)
	t.Logf("restart: %v", h)
	h.check(t)
}

// rests holds that sidecars that have nothing to do hardly ask anything. Each query waits
// once it has been asked twice, so a machine that is slow to do that comes to rest later.
func (f *fleet) rests(t *testing.T) {
	t.Helper()
	rest, tries := time.Second, 20
	if *full {
		rest, tries = 10*time.Second, 1
		time.Sleep(3 * time.Second)
	}
	for try := range tries {
		quiet := f.during(t, func() { time.Sleep(rest) })
		t.Logf("at rest: %v", quiet)
		most := 10 + 0.3*float64(f.size.sidecars)*quiet.took.Seconds()
		if float64(quiet.requests()) <= most {
			return
		}
		if try == tries-1 {
			t.Errorf("at rest %d sidecars ask %d times in %v", f.size.sidecars, quiet.requests(), quiet.took)
		}
	}
}

// changes changes a service's policy.
func (f *fleet) changes(t *testing.T, service string) {
	t.Helper()
	var s spread
	taken := f.during(t, func() { s = f.change(t, service) })
	t.Logf("change of %s: in force %v\n      %v", service, s, taken)
	later := f.during(t, func() { t.Logf("  the status says so %v later", round(f.settles(t))) })
	t.Logf("  until then: %v", later)
	// Who does not follow the service does not hear of it, and each who does asks once
	// more and writes once. Here and there a query ends for another reason.
	asked := taken.kinds["watch"] + later.kinds["watch"]
	wrote := taken.kinds["write"] + later.kinds["write"]
	if most := 2*s.of + f.size.sidecars/10; asked > most || wrote > most {
		t.Errorf("a change for %d of %d sidecars has them ask %d times and write %d times", s.of, f.size.sidecars, asked, wrote)
	}
}

// canary has all sidecars report on one.
func (f *fleet) canary(t *testing.T) {
	t.Helper()
	started := f.during(t, func() {
		obeyed, reporting := f.startCanary(t)
		t.Logf("canary: runs on %v; all report after %v", obeyed, round(reporting))
	})
	t.Logf("  until then: %v", started)
	if n := started.kinds["session/create"]; n > max(10, f.size.sidecars/4) {
		t.Errorf("to elect one of %d sidecars %d begin sessions", f.size.sidecars, n)
	}
	if *full {
		t.Logf("canary: %v", f.during(t, func() {
			t.Logf("canary: ten RPCs/s at each sidecar: the elected one takes %s", share(t, f.elected(), func() { f.traffic(8 * time.Second) }))
		}))
	} else {
		f.traffic(time.Second)
	}
	t.Logf("canary: %v", f.during(t, func() { t.Logf("canary: after one failure at each sidecar taken off on %v", f.fail(t)) }))
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
