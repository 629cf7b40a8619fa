package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault"
	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds what must happen at some time.
	patience = 60 * time.Second
	// grace is how much later than its deadline an RPC may be over on a machine
	// that does a lot else. What is never over is later than that, too.
	grace = 10 * time.Second
	// recovery is how long after a fault's end the first RPC ends well at the
	// latest: the longest back-off of Pillion (3s and a fifth), and a connection.
	recovery = 5 * time.Second
	// connectTimeout is what the sidecars are given.
	connectTimeout = 2 * time.Second
)

// The services of the mesh: one whose only instance is behind the fault, if that
// is where the fault is; one that has another instance, too; one without any fault.
const (
	alone = "alone"
	pair  = "pair"
	other = "other"
)

// position is where the fault proxy stands.
type position string

const (
	atClient   position = "between client and Pillion"
	atInstance position = "between Pillion and instance"
	atSidecar  position = "between two Pillions"
)

var positions = []position{atClient, atInstance, atSidecar}

// rig is a mesh with a fault proxy.
type rig struct {
	at       position
	ledger   *exact.Ledger
	proxy    *fault.Proxy
	sidecars []*harness.Sidecar
	outbound *harness.Sidecar
	second   *exact.App // of pair

	// The clients of the services. That of other never goes through the proxy.
	clients map[string]*grpc.ClientConn
}

func startRig(t *testing.T, at position, settings map[string]any) *rig {
	t.Helper()

	r := &rig{at: at, ledger: exact.NewLedger(), clients: map[string]*grpc.ClientConn{}}
	app := exact.Serve(t, harness.Listen(t), "first", r.ledger)
	r.second = exact.Serve(t, harness.Listen(t), "second", r.ledger)
	third := exact.Serve(t, harness.Listen(t), "other", r.ledger)

	instance := app.Address
	if at == atSidecar {
		inbound := harness.StartSidecar(t, harness.Config{
			Service: alone, App: app.Address, Mesh: harness.NewMesh(t, nil), Settings: settings,
		})
		r.sidecars = append(r.sidecars, inbound)
		instance = inbound.Inbound
	}
	if at != atClient {
		r.proxy = fault.Start(t, instance)
		instance = r.proxy.Address()
	}
	r.outbound = harness.StartSidecar(t, harness.Config{
		Outbound: true,
		Mesh: harness.NewMesh(t, map[string]harness.Service{
			alone: {Endpoints: harness.Endpoints(instance)},
			pair:  {Endpoints: harness.Endpoints(instance, r.second.Address)},
			other: {Endpoints: harness.Endpoints(third.Address)},
		}),
		Settings: settings,
	})
	r.sidecars = append(r.sidecars, r.outbound)

	port := r.outbound.Outbound
	if at == atClient {
		r.proxy = fault.Start(t, port)
		port = r.proxy.Address()
	}
	r.clients[alone] = dial(t, port, alone)
	r.clients[pair] = dial(t, port, pair)
	r.clients[other] = dial(t, r.outbound.Outbound, other)
	for service := range r.clients {
		r.mustAllEndWell(t, service)
	}

	return r
}

// ordinary are the settings of most rigs.
func ordinary() map[string]any {
	return map[string]any{"connections": map[string]any{"connect_timeout": connectTimeout.String()}}
}

func dial(t *testing.T, address, authority string) *grpc.ClientConn {
	t.Helper()

	target := "passthrough:///" + address
	if len(address) > 5 && address[:5] == "unix:" {
		target = address
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority), grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// plan says which RPCs to make: so many of each kind at once, of one shape, each
// with a time of its own.
type plan struct {
	each    int
	shape   exact.Shape
	timeout time.Duration
}

var small = plan{each: 2, shape: exact.Shape{Messages: 10, Size: 1000}, timeout: 20 * time.Second}

// running is RPCs under way.
type running struct {
	plan    plan
	calls   sync.WaitGroup
	over    chan struct{} // closed when all are
	mu      sync.Mutex
	results []exact.Result
}

func (r *rig) begin(service string, p plan) *running {
	u := &running{plan: p, over: make(chan struct{})}
	for _, kind := range exact.Kinds {
		for range p.each {
			u.calls.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
				defer cancel()
				result := exact.Call(ctx, r.clients[service], r.ledger, kind, p.shape)
				u.mu.Lock()
				defer u.mu.Unlock()
				u.results = append(u.results, result)
			})
		}
	}
	go func() {
		defer close(u.over)
		u.calls.Wait()
	}()

	return u
}

// judge waits for the RPCs' ends, and counts them by code. The test fails where
// one ended in a way that is not allowed, or too late.
func (u *running) judge(t *testing.T, allowed ...codes.Code) map[codes.Code]int {
	t.Helper()

	<-u.over
	counts := map[codes.Code]int{}
results:
	for _, result := range u.results {
		counts[result.Code]++
		if result.Wrong != nil || result.Took > u.plan.timeout+grace {
			t.Errorf("%v", result)
		}
		for _, code := range allowed {
			if result.Code == code {
				continue results
			}
		}
		t.Errorf("%v; want one of %v", result, allowed)
	}

	return counts
}

// make makes RPCs and judges them.
func (r *rig) make(t *testing.T, service string, p plan, allowed ...codes.Code) map[codes.Code]int {
	t.Helper()

	return r.begin(service, p).judge(t, allowed...)
}

func (r *rig) mustAllEndWell(t *testing.T, service string) {
	t.Helper()

	r.make(t, service, small, codes.OK)
}

// heal switches the fault off. RPCs must end well within the bound, and from then
// on all of them.
func (r *rig) heal(t *testing.T, services ...string) {
	t.Helper()

	began := time.Now()
	r.proxy.Clear(t)
	for _, service := range services {
		r.awaitOK(t, service, began, recovery)
		r.mustAllEndWell(t, service)
	}
}

// awaitOK makes RPCs until one ends well; the test fails where none does within a
// time from began on.
func (r *rig) awaitOK(t *testing.T, service string, began time.Time, within time.Duration) {
	t.Helper()

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		result := exact.Call(ctx, r.clients[service], r.ledger, exact.Unary, small.shape)
		cancel()
		took := time.Since(began)
		if result.Code == codes.OK && took < within+grace/2 {
			return
		}
		if took > within+grace/2 {
			t.Fatalf("%v after the fault's end: %v", took, result)
		}
		<-tick.C
	}
}

// bystanders are RPCs one after the other that the fault must not touch.
type bystanders struct {
	stop    context.CancelFunc
	done    chan struct{}
	made    int
	slowest time.Duration
	failed  []exact.Result
	control *load.Control
}

// bystand begins to make RPCs to other.
func (r *rig) bystand(t *testing.T) *bystanders {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	b := &bystanders{stop: stop, done: make(chan struct{}), control: load.StartControl(t)}
	go func() {
		defer close(b.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(context.Background(), patience)
			result := exact.Call(call, r.clients[other], r.ledger, exact.Kinds[b.made%4], exact.Shape{Messages: 3, Size: 100})
			cancel()
			b.made++
			b.slowest = max(b.slowest, result.Took)
			if result.Code != codes.OK || result.Wrong != nil {
				b.failed = append(b.failed, result)
			}
			<-tick.C
		}
	}()
	t.Cleanup(func() { stop(); <-b.done })

	return b
}

// mustNotHaveNoticed ends the bystanders.
func (b *bystanders) mustNotHaveNoticed(t *testing.T) {
	t.Helper()

	b.stop()
	<-b.done
	machine := b.control.Stop()
	t.Logf("beside it %d RPCs, the slowest took %v, of the machine's own %v", b.made, b.slowest.Round(time.Microsecond), machine.Round(time.Microsecond))
	if len(b.failed) > 0 {
		t.Errorf("%d of %d RPCs beside the fault failed, such as %v", len(b.failed), b.made, b.failed[0])
	}
	// A busy machine holds up all.
	if b.slowest > 4*time.Second+20*machine || b.made == 0 {
		t.Errorf("an RPC beside the fault took %v", b.slowest)
	}
}

// mustSettle fails where something is left of RPCs that are over, or where one was
// processed twice or spoilt.
func (r *rig) mustSettle(t *testing.T) {
	t.Helper()

	var left string
	deadline := time.Now().Add(patience / 2)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for left = r.left(t); left != ""; left = r.left(t) {
		if time.Now().After(deadline) {
			t.Errorf("not over: %s", left)

			break
		}
		<-tick.C
	}
	if wrong := r.ledger.Wrong(); wrong != nil {
		t.Errorf("%v", wrong)
	}
}

// left says what is left of RPCs.
func (r *rig) left(t *testing.T) string {
	t.Helper()

	if n := r.ledger.Running(); n > 0 {
		return fmt.Sprintf("the apps have %d RPCs under way", n)
	}
	for _, sidecar := range r.sidecars {
		for _, role := range []string{"client", "server"} {
			ended := sidecar.Metric(t, "grpc_"+role+"_handled_total")
			if began := sidecar.Metric(t, "grpc_"+role+"_started_total"); began != ended {
				return fmt.Sprintf("%s has counted %v RPCs that began and %v that ended", sidecar.Admin, began, ended)
			}
		}
		if n := sidecar.Metric(t, "pillion_buffered_bytes"); n != 0 {
			return fmt.Sprintf("%s holds %v bytes", sidecar.Admin, n)
		}
	}
	if n := r.inFlight(t); n != 0 {
		return fmt.Sprintf("%d RPCs are in flight at instances", n)
	}

	return ""
}

// inFlight is how many RPCs are under way at the instances of services, of all
// where none is named.
func (r *rig) inFlight(t *testing.T, services ...string) (sum int) {
	t.Helper()

	for _, sidecar := range r.sidecars {
		for _, in := range instances(t, sidecar) {
			if len(services) == 0 || slices.Contains(services, in.service) {
				sum += in.InFlight
			}
		}
	}

	return sum
}

// mustBeIdle waits until Pillion has no RPC under way at these services.
func (r *rig) mustBeIdle(t *testing.T, services ...string) {
	t.Helper()

	began := time.Now()
	for n := r.inFlight(t, services...); n > 0; n = r.inFlight(t, services...) {
		if time.Since(began) > grace {
			t.Errorf("%d RPCs are still in flight %v after the last deadline", n, grace)

			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// instance is what the admin port says of one.
type instance struct {
	Address     string `json:"address"`
	State       string `json:"state"`
	InFlight    int    `json:"in_flight"`
	Connections int    `json:"connections"`

	service string
}

func instances(t *testing.T, sidecar *harness.Sidecar) (all []instance) {
	t.Helper()

	var page struct {
		Services []struct {
			Name      string     `json:"name"`
			Instances []instance `json:"instances"`
		} `json:"services"`
	}
	if err := json.Unmarshal([]byte(sidecar.Get(t, "/endpoints")), &page); err != nil {
		t.Fatal(err)
	}
	for _, service := range page.Services {
		for _, in := range service.Instances {
			in.service = service.Name
			all = append(all, in)
		}
	}

	return all
}

// size is what must not grow, however often something failed.
type size struct{ goroutines, downstream, upstream float64 }

func (r *rig) size(t *testing.T) (s size) {
	t.Helper()

	for _, sidecar := range r.sidecars {
		s.goroutines += float64(sidecar.Goroutines(t))
		s.downstream += sidecar.Metric(t, "pillion_downstream_connections")
		s.upstream += sidecar.Metric(t, "pillion_upstream_connections")
	}

	return s
}

// mustShrinkTo waits until the sidecars have no more connections and goroutines
// than before (a few goroutines come and go with timers and the admin port).
func (r *rig) mustShrinkTo(t *testing.T, before size) {
	t.Helper()

	const comeAndGo = 10

	deadline := time.Now().Add(patience / 2)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		now := r.size(t)
		if now.goroutines <= before.goroutines+comeAndGo && now.downstream <= before.downstream && now.upstream <= before.upstream {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("before it was %+v, now %+v", before, now)

			return
		}
		<-tick.C
	}
}

// await waits until something holds that can only be asked, and fails the test where
// it never does.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()

	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
