package outlier

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// instance is a Target that the test plays.
type instance struct {
	*Host
	name    string
	unfit   bool
	blocked bool
}

func (i *instance) Fit() bool     { return !i.unfit }
func (i *instance) Eject(on bool) { i.blocked = on }

// rig is a service on a clock of the test's.
type rig struct {
	testing.TB
	d         *Detector
	now       time.Time
	cfg       *Config
	instances []*instance
	random    uint64
	events    []Event
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ejection is the schema's defaults.
func ejection() *Config {
	return &Config{
		Policy: "eject", Interval: 10 * time.Second, BaseTime: 30 * time.Second, MaxTime: 300 * time.Second, MaxPercent: 50,
		Failures: wire.CodesOf(codes.Unavailable), ConsecutiveFailures: 5,
	}
}

func newRig(t testing.TB, cfg *Config, n int) *rig {
	r := &rig{TB: t, now: epoch, cfg: cfg}
	r.d = New(func() uint64 { return r.random }, func(e Event) { r.events = append(r.events, e) })
	for range n {
		r.add()
	}
	r.configure()
	return r
}

func (r *rig) add() *instance {
	i := &instance{name: fmt.Sprint("i", len(r.instances))}
	i.Host = r.d.NewHost(i)
	r.instances = append(r.instances, i)
	return i
}

func (r *rig) configure() {
	hosts := make([]*Host, len(r.instances))
	for i, in := range r.instances {
		hosts[i] = in.Host
	}
	r.d.Configure(r.now, r.cfg, hosts)
}

// rpcs has an instance answer so many RPCs, of which some fail: the successes first
// come first, so that failures in a row come of the last alone.
func (r *rig) rpcs(i, ok, failed int) {
	for range ok {
		r.instances[i].Record(r.now, false)
	}
	for range failed {
		r.instances[i].Record(r.now, true)
	}
}

// spread has an instance answer so many RPCs, failures never in a row.
func (r *rig) spread(i, ok, failed int) {
	for ok > 0 || failed > 0 {
		if failed > 0 {
			r.instances[i].Record(r.now, true)
			failed--
		}
		if ok > 0 {
			r.instances[i].Record(r.now, false)
			ok--
		}
	}
}

// pass lets time pass; whatever is due is done when it is due.
func (r *rig) pass(d time.Duration) {
	end := r.now.Add(d)
	for next := r.d.Tick(r.now); !next.IsZero() && !next.After(end); next = r.d.Tick(r.now) {
		r.now = next
	}
	r.now = end
}

// ejected names the instances that are ejected.
func (r *rig) ejected() string {
	s := ""
	for _, i := range r.instances {
		if i.blocked != i.Status().Ejected {
			r.Fatalf("%s is blocked: %v, ejected: %v", i.name, i.blocked, i.Status().Ejected)
		}
		if i.blocked {
			s += i.name + " "
		}
	}
	return s
}

func (r *rig) want(ejected string) {
	r.Helper()
	if got := r.ejected(); got != ejected {
		r.Fatalf("after %v ejected are %q, want %q; events %+v", r.now.Sub(epoch), got, ejected, r.events)
	}
}
