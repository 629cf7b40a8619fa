package policy

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait and every RPC that has to end.
const patience = 60 * time.Second

// app is an instance that can be made to fail. It answers health checks too.
type app struct {
	*load.App

	// failing is the share of RPCs that fail in trailers, in percent; slow how long
	// each takes.
	failing atomic.Int64
	slow    atomic.Int64
	sick    atomic.Bool

	came   atomic.Int64 // RPCs
	failed atomic.Int64 // of those
	copies atomic.Int64 // of those, the ones with pillion-mirror
	marked atomic.Int64 // of those, the ones with the metadata "mark"
	checks atomic.Int64 // of its health
}

func startApp(t *testing.T, name string) *app {
	t.Helper()

	a := &app{}
	a.App = load.StartApp(t, name, "", grpc.UnaryInterceptor(a.unary), grpc.UnknownServiceHandler(a.health))

	return a
}

// startApps starts instances named 0, 1, ... and returns them as a service's too.
func startApps(t *testing.T, count int) (apps []*app, service harness.Service) {
	t.Helper()

	for i := range count {
		a := startApp(t, strconv.Itoa(i))
		apps = append(apps, a)
		service.Endpoints = append(service.Endpoints, harness.Endpoint{Address: a.Address})
	}

	return apps, service
}

func (a *app) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	number := a.came.Add(1)
	md, _ := metadata.FromIncomingContext(ctx)
	for key, count := range map[string]*atomic.Int64{"pillion-mirror": &a.copies, "mark": &a.marked} {
		if len(md.Get(key)) > 0 {
			count.Add(1)
		}
	}
	if slow := time.Duration(a.slow.Load()); slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
	if number%10 < a.failing.Load()/10 {
		a.failed.Add(1)
		if err := grpc.SendHeader(ctx, metadata.Pairs("x-app", a.Name)); err != nil { // so that the status comes in trailers
			return nil, err
		}

		return nil, status.Errorf(codes.Unavailable, "%s fails", a.Name)
	}

	return next(ctx, request)
}

// health answers grpc.health.v1.Health/Check, and whatever else nobody registered.
func (a *app) health(_ any, stream grpc.ServerStream) error {
	a.checks.Add(1)
	if err := stream.RecvMsg(&healthpb.HealthCheckRequest{}); err != nil {
		return err
	}
	serving := healthpb.HealthCheckResponse_SERVING
	if a.sick.Load() {
		serving = healthpb.HealthCheckResponse_NOT_SERVING
	}

	return stream.SendMsg(&healthpb.HealthCheckResponse{Status: serving})
}

// total sums what instances counted.
func total(apps []*app, count func(*app) *atomic.Int64) (sum int64) {
	for _, a := range apps {
		sum += count(a).Load()
	}

	return sum
}

func came(a *app) *atomic.Int64 { return &a.came }

// governed starts a sidecar whose service "app" has these instances, under policies.
func governed(t *testing.T, service harness.Service, policies string) (*harness.Sidecar, *harness.Mesh) {
	t.Helper()

	mesh := harness.NewMesh(t, map[string]harness.Service{"app": service})
	mesh.SetPolicies(t, policies)

	return harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh}), mesh
}

// call makes one RPC with metadata in pairs, and returns who answered.
func call(ctx context.Context, conn *grpc.ClientConn, pairs ...string) (string, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pairs...), patience)
	defer cancel()
	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})

	return answer.GetUsername(), err
}

// outcome is what became of RPCs.
type outcome struct {
	answered map[string]int
	took     []time.Duration
	errors   map[string]int // by status and message
	failed   int
	during   time.Duration
}

// calls makes as many RPCs, some at a time, with metadata in pairs.
func calls(t *testing.T, conn *grpc.ClientConn, count int, pairs ...string) *outcome {
	t.Helper()

	const workers = 10

	o := &outcome{answered: map[string]int{}, errors: map[string]int{}}
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(count))
	var mu sync.Mutex
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				begun := time.Now()
				name, err := call(t.Context(), conn, pairs...)
				mu.Lock()
				o.took = append(o.took, time.Since(begun))
				if err != nil {
					o.failed++
					o.errors[err.Error()]++
				} else {
					o.answered[name]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	o.during = time.Since(began)

	return o
}

// all fails the test where an RPC failed.
func (o *outcome) all(t *testing.T) *outcome {
	t.Helper()

	if o.failed > 0 {
		t.Fatalf("%d RPCs failed: %v", o.failed, o.errors)
	}

	return o
}

// eventually asks again and again until the answer is yes, and says how long it took.
func eventually(t testing.TB, what string, reached func() bool) time.Duration {
	t.Helper()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	began := time.Now()
	for !reached() {
		if time.Since(began) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}

	return time.Since(began)
}
