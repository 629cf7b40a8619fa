package relay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// simulated runs a test on virtual time.
func simulated(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// rig is a proxy between a caller and instances that the test plays.
type rig struct {
	*scriptpeer.Peer // the caller
	t                testing.TB
	net              *scriptpeer.Network
	router           *router
	cluster          *upstream.Cluster
	proxy            *Proxy
	http2            *h2.Config
	counters         *telemetry.Counters
	counts           *telemetry.Service
	log              *lines
}

// options of a rig. Its instances listen at "a:1", "b:1" and so on.
type options struct {
	Config
	instances int // default 1
	http2     h2.Config
	upstream  upstream.Options
	budget    int64 // default 64 MiB
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	r := &rig{t: t, net: scriptpeer.NewNetwork(t), counters: new(telemetry.Counters), log: &lines{}}
	r.counts = r.counters.Service(o.Side, "greeter")
	o.Budget = h2.NewBudget(cmp.Or(o.budget, 64<<20))
	o.http2.Budget = o.Budget
	cfg := o.http2.WithDefaults()
	r.http2 = &cfg
	up := o.upstream
	up.HTTP2, up.Dial = &cfg, r.net.Dial
	up.Jitter = func() float64 { return 0.5 }
	up = up.WithDefaults()
	// The first instance is picked first, and the next one where it is skipped.
	r.cluster = upstream.NewCluster("greeter", balance.PickFirst, &up, r.counts)
	var endpoints []registry.Endpoint
	for i := range max(o.instances, 1) {
		endpoints = append(endpoints, registry.Endpoint{ID: address(i), Address: address(i), Weight: 1})
	}
	r.cluster.Update(endpoints, false)
	r.router = &router{dest: r.cluster}
	if o.Router == nil {
		o.Router = r.router
	}
	if o.Metrics == nil {
		o.Metrics = telemetry.NewMetrics(o.Side)
	}
	o.Unrouted = r.counters.Service(o.Side, "")
	o.Log = telemetry.NewAccessLog(r.log, telemetry.AccessLogOptions{Sample: 1})
	r.proxy = New(o.Config)
	r.Peer = r.caller()
	t.Cleanup(func() {
		r.Peer.Close()
		r.cluster.Close()
		time.Sleep(time.Minute) // whatever was still to come
		_ = o.Log.Close(context.WithoutCancel(t.Context()))
		if n := o.Budget.Used(); n != 0 {
			t.Errorf("%d bytes of the budget are still taken", n)
		}
		for _, in := range r.cluster.Status().Instances {
			if in.InFlight != 0 || in.Waiting != 0 {
				t.Errorf("instance %s: %d RPCs in flight, %d waiting", in.Endpoint.ID, in.InFlight, in.Waiting)
			}
		}
	})
	return r
}

func address(i int) string { return fmt.Sprintf("%c:%d", 'a'+i%26, 1+i/26) }

// caller connects another caller.
func (r *rig) caller() *scriptpeer.Peer {
	r.t.Helper()
	return r.callerOf(callers{r.proxy})
}

func (r *rig) callerOf(h h2.Handler) *scriptpeer.Peer {
	here, there := net.Pipe()
	go h2.New(h2.NewTransport(named{there}), h2.Server, r.http2, h).Serve()
	return scriptpeer.Client(r.t, here)
}

type named struct{ net.Conn }

func (named) RemoteAddr() net.Addr { return name("caller") }

type name string

func (n name) Network() string { return "memory" }
func (n name) String() string  { return string(n) }

// callers makes a proxy the handler of a caller's connection.
type callers struct{ *Proxy }

func (callers) OnConnSlots(*h2.Batch, *h2.Conn)         {}
func (callers) OnConnDraining(*h2.Batch, *h2.Conn)      {}
func (callers) OnConnClosed(*h2.Batch, *h2.Conn, error) {}

// router sends everything to one cluster, perhaps once it is told.
type router struct {
	mu      sync.Mutex
	dest    *upstream.Cluster
	pending bool
	full    bool // nobody more may wait
	waiting []func()

	policies atomic.Pointer[policy.Set]
	others   map[string]*upstream.Cluster // beside dest
	asked    map[string]bool              // names that have to be looked up before Service knows them
}

func (r *router) Policies() *policy.Set { return r.policies.Load() }

func (r *router) Find(*policy.Set, string, string) Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending {
		return Found{Wait: true}
	}
	if r.dest == nil {
		return Found{}
	}
	return Found{Cluster: r.dest, Service: r.dest.Name(), Route: "test"}
}

func (r *router) Service(name string) Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked[name] {
		return Found{Service: name, Wait: true}
	}
	if c := r.others[name]; c != nil {
		return Found{Cluster: c, Service: name}
	}
	if r.dest != nil && r.dest.Name() == name {
		return Found{Cluster: r.dest, Service: name}
	}
	return Found{Service: name}
}

func (r *router) Await(_, _, _ string, w Waiter, life uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return false
	}
	r.waiting = append(r.waiting, func() { w.OnRoute(life) })
	return true
}

func (r *router) Explain(_, authority, path string) (codes.Code, wire.Flag, string) {
	return codes.Unimplemented, wire.FlagNoRoute, "no way to " + authority + path
}

// settle tells those who wait.
func (r *router) settle(dest *upstream.Cluster) {
	r.mu.Lock()
	r.pending, r.dest = false, dest
	waiting := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	for _, tell := range waiting {
		tell()
	}
}

// reveal tells those who wait that a service was looked up. nil: there is none of the
// name.
func (r *router) reveal(name string, c *upstream.Cluster) {
	r.mu.Lock()
	delete(r.asked, name)
	if r.others == nil {
		r.others = map[string]*upstream.Cluster{}
	}
	r.others[name] = c
	dest := r.dest
	r.mu.Unlock()
	r.settle(dest)
}

// lines collects the access log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// records returns the access log's records since it was last asked.
func (r *rig) records() (all []map[string]any) {
	r.t.Helper()
	time.Sleep(time.Second) // the log gathers what it writes
	synctest.Wait()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for line := range strings.Lines(r.log.buf.String()) {
		rec := map[string]any{}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			r.t.Fatalf("%s: %v", line, err)
		}
		all = append(all, rec)
	}
	r.log.buf.Reset()
	return all
}

// logged checks the fields of the one record that the log got.
func (r *rig) logged(want map[string]any) {
	r.t.Helper()
	all := r.records()
	if len(all) != 1 {
		r.t.Fatalf("%d records in the access log, want 1: %v", len(all), all)
	}
	for key, value := range want {
		if got := all[0][key]; fmt.Sprint(got) != fmt.Sprint(value) {
			r.t.Errorf("access log: %s is %v, want %v", key, got, value)
		}
	}
}

// failures returns how many RPCs failed with a flag at the destination.
func (r *rig) failures(flag wire.Flag) int {
	return int(metric(r.t, r.counters, "pillion_rpc_failures_total", "flag", flag.String(), "service", "greeter"))
}

// metric returns the sum of a counter's values with these labels.
func metric(t testing.TB, c prometheus.Collector, name string, labels ...string) (sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if has(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func has(m *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// ask opens an RPC without a body and returns the connection on which the
// instance got it; the request's HEADERS are taken from both sides.
func (r *rig) ask(h *scriptpeer.Host, id uint32, end bool, pairs ...string) *scriptpeer.Peer {
	r.t.Helper()
	r.Request(id, "/a.B/C", end, pairs...)
	in := h.Conn()
	for _, f := range in.Frames() {
		if f.Type.String() == "HEADERS" {
			return in
		}
	}
	r.t.Fatal("the instance got no request")
	return nil
}
