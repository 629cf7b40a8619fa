package abuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// All bad instances at once take no more memory and no more sockets than this.
func TestAllBadInstancesAtOnce(t *testing.T) {
	t.Parallel()

	const (
		memory = 160 << 20
		while  = 4 * time.Second
	)

	instances := attack.Instances()
	good := load.StartApp(t, "good", "")
	services := map[string]harness.Service{wellService: {Endpoints: harness.Endpoints(good.Address)}}
	running := make([]*attack.Running, len(instances))
	for i, instance := range instances {
		running[i] = startInstance(t, instance)
		services[serviceOf(badService, i)] = harness.Service{Endpoints: harness.Endpoints(running[i].Address)}
	}
	sidecar := harness.StartSidecar(t, harness.Config{
		Binary: harness.PlainPillion(t), Outbound: true, Mesh: harness.NewMesh(t, services), Settings: hasty,
	})
	others := load.Start(t, load.Dial(t, sidecar.Outbound, grpc.WithAuthority(wellService)),
		load.Options{PerSecond: 50, StreamEvery: 10, MayBeSlow: true})
	others.More(t, 0)

	ctx, cancel := context.WithTimeout(t.Context(), while)
	defer cancel()
	var calling sync.WaitGroup
	for i, instance := range instances {
		conn := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(serviceOf(badService, i)), grpc.WithDisableRetry())
		calling.Go(func() {
			// How each ends is another test's.
			for ctx.Err() == nil {
				_ = call(ctx, conn, instance)
				pause(ctx, 100*time.Millisecond)
			}
		})
	}
	calling.Wait()
	others.Check(t, "while all bad instances are called")
	for _, r := range running {
		r.Stop()
	}
	t.Logf("up to %d MiB resident", peakMemory(t, sidecar.PID())>>20)
	if peak := peakMemory(t, sidecar.PID()); peak > memory {
		t.Errorf("up to %d MiB resident, want at most %d MiB", peak>>20, memory>>20)
	}
	others.End(t)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Requests that an instance does not read pile up only as far as the budget goes,
// and something of that is left for others.
func TestRequestsThatPileUp(t *testing.T) {
	t.Parallel()

	for _, name := range []string{"a window of 0 for ever", "reads nothing", "answer: nothing"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			const (
				budget  = 8 << 20
				uploads = 400
			)

			bad := startInstance(t, instanceNamed(t, name))
			good := load.StartApp(t, "good", "")
			sidecar := harness.StartSidecar(t, harness.Config{
				Outbound: true,
				Mesh: harness.NewMesh(t, map[string]harness.Service{
					badService:  {Endpoints: harness.Endpoints(bad.Address)},
					wellService: {Endpoints: harness.Endpoints(good.Address)},
				}),
				Settings: map[string]any{"http2": map[string]any{"buffer_budget": budget}},
			})

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			conn := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(badService), grpc.WithDisableRetry())
			results := make(chan error, uploads)
			for range uploads {
				go func() { results <- upload(ctx, conn, 100<<10) }()
			}
			held := func() float64 { return sidecar.Metric(t, "pillion_buffered_bytes") }
			await(t, func() bool { return held() > budget/4 }, "the requests to pile up")

			// Requests that are kept for another attempt count, too.
			client := testpb.NewTestServiceClient(load.Dial(t, sidecar.Outbound, grpc.WithAuthority(wellService), grpc.WithDisableRetry()))
			request := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 60<<10)}}
			for i := range 100 {
				if _, err := client.UnaryCall(ctx, request); err != nil {
					t.Fatalf("RPC %d to another service: %v; %.0f bytes are held", i, err, held())
				}
			}
			if n := held(); n > budget {
				t.Errorf("%.0f bytes are held, want at most %d", n, budget)
			}
			cancel()
			for range uploads {
				if err := <-results; status.Code(err) != codes.Canceled && status.Code(err) != codes.ResourceExhausted {
					t.Errorf("an upload ended with %v", err)
				}
			}
			await(t, func() bool { return held() == 0 }, "all bytes to be given back")
		})
	}
}

// upload makes an RPC of one message of that many bytes.
func upload(ctx context.Context, conn *grpc.ClientConn, size int) error {
	_, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, size)}})

	return err
}

func instanceNamed(t testing.TB, name string) attack.Instance {
	t.Helper()

	for _, instance := range attack.Instances() {
		if instance.Name == name {
			return instance
		}
	}
	t.Fatalf("there is no instance %q", name)

	return attack.Instance{}
}

// await waits until something is so.
func await(t testing.TB, so func() bool, what string) {
	t.Helper()

	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

// An instance that ends each connection and never finishes what it has does not
// take the sidecar's sockets.
func TestConnectionsThatNeverEnd(t *testing.T) {
	t.Parallel()

	// The default bound of those that take no new RPCs, and one that does.
	const calls, most = 100, 64 + 1

	bad := startInstance(t, instanceNamed(t, "GOAWAY and silence"))
	good := load.StartApp(t, "good", "")
	sidecar := harness.StartSidecar(t, harness.Config{
		Outbound: true,
		Mesh: harness.NewMesh(t, map[string]harness.Service{
			badService:  {Endpoints: harness.Endpoints(bad.Address)},
			wellService: {Endpoints: harness.Endpoints(good.Address)},
		}),
	})
	others := load.Start(t, load.Dial(t, sidecar.Outbound, grpc.WithAuthority(wellService)), load.Options{PerSecond: 50})
	conn := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(badService), grpc.WithDisableRetry())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calling sync.WaitGroup
	for i := range calls {
		calling.Go(func() {
			stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("an RPC ended with %v", err)
			}
		})
		if i < most-1 { // one after the other, so that each has a connection to itself
			await(t, func() bool { return bad.Open() > i }, "a connection")
		} else { // or several would share one, were there no bound
			pause(ctx, 20*time.Millisecond)
		}
	}
	others.More(t, 2*time.Second)
	if n := bad.Open(); n > most {
		t.Errorf("%d connections are open, want at most %d", n, most)
	}
	t.Logf("%d connections are open, %d were made, %d sockets", bad.Open(), bad.Connections(), sockets(t, sidecar.PID()))
	cancel()
	calling.Wait()
	others.End(t)
}

// sockets is how many file descriptors a process has.
func sockets(t testing.TB, pid int) int {
	t.Helper()

	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}

	return len(entries)
}
