package overload

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// patience bounds the waits for something that has to happen.
const patience = 60 * time.Second

// workers is an app that has so many of them, in front of which RPCs queue.
type workers struct {
	testpb.UnimplementedTestServiceServer

	free    chan struct{}
	service time.Duration
	// held, where it is not nil, is what RPCs wait for instead of their time.
	held chan struct{}
	// worked is how many RPCs had their time.
	worked atomic.Int64
}

// startWorkers starts an app and returns where it is.
func startWorkers(t testing.TB, count int, service time.Duration) (*workers, string) {
	t.Helper()

	w := &workers{free: make(chan struct{}, count), service: service}

	return w, serve(t, w)
}

// startHeld starts an app that answers nothing until it is let.
func startHeld(t testing.TB) (w *workers, address string, release func()) {
	t.Helper()

	w = &workers{free: make(chan struct{}, 1<<20), held: make(chan struct{})}
	release = sync.OnceFunc(func() { close(w.held) })
	address = serve(t, w)
	t.Cleanup(release)

	return w, address, release
}

func serve(t testing.TB, app testpb.TestServiceServer) string {
	t.Helper()

	listener := harness.Listen(t)
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, app)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})

	return listener.Addr().String()
}

func (w *workers) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	select {
	case w.free <- struct{}{}:
		defer func() { <-w.free }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}

	var done <-chan time.Time
	if w.service > 0 {
		timer := time.NewTimer(w.service)
		defer timer.Stop()
		done = timer.C
	}
	if w.held == nil {
		<-done
		w.worked.Add(1)

		return &testpb.SimpleResponse{}, nil
	}
	select {
	case <-w.held:
		return &testpb.SimpleResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// inFront starts a sidecar in front of an app, and one for its callers.
func inFront(t testing.TB, app string, settings map[string]any) (outbound, inbound *harness.Sidecar) {
	t.Helper()

	inbound = harness.StartSidecar(t, harness.Config{
		Binary: harness.PlainPillion(t), Service: "app", App: app, Mesh: harness.NewMesh(t, nil), Settings: settings,
	})
	outbound = startOutbound(t, nil, inbound.Inbound)

	return outbound, inbound
}

func startOutbound(t testing.TB, settings map[string]any, instances ...string) *harness.Sidecar {
	t.Helper()

	return harness.StartSidecar(t, harness.Config{
		Binary: harness.PlainPillion(t), Outbound: true, Default: "app", Settings: settings,
		Mesh: harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(instances...)}}),
	})
}

// outcome is what became of RPCs.
type outcome struct {
	mu     sync.Mutex
	took   []time.Duration // of those that were answered well
	codes  map[codes.Code]int
	flags  map[string]int
	errors []error
	began  time.Time
}

// call makes one RPC and notes what became of it.
func (o *outcome) call(ctx context.Context, conn *grpc.ClientConn, payload []byte) {
	began := time.Now()
	var head, trailer metadata.MD
	_, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: payload}},
		grpc.Header(&head), grpc.Trailer(&trailer))
	took := time.Since(began)

	o.mu.Lock()
	defer o.mu.Unlock()

	o.codes[status.Code(err)]++
	for _, flag := range slices.Concat(head.Get("pillion-flags"), trailer.Get("pillion-flags")) {
		o.flags[flag]++
	}
	if err == nil {
		o.took = append(o.took, took)
	} else if len(o.errors) < 1 {
		o.errors = append(o.errors, err)
	}
}

func newOutcome() *outcome {
	return &outcome{codes: map[codes.Code]int{}, flags: map[string]int{}, began: time.Now()}
}

// ask makes RPCs at a rate for a while, whatever becomes of them: more than there
// should be. Each has a deadline. What a sidecar or this process made of them while it
// stood still for a moment comes as a burst; see keep for those of whom none may be
// refused.
func ask(t testing.TB, conn *grpc.ClientConn, perSecond int, while, deadline time.Duration) *outcome {
	t.Helper()

	o := newOutcome()
	var running sync.WaitGroup
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for made := 0; ; <-tick.C {
		passed := time.Since(o.began)
		if passed > while {
			break
		}
		for ; made < int(passed.Seconds()*float64(perSecond)); made++ {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				o.call(ctx, conn, nil)
			})
		}
	}
	running.Wait()
	slices.Sort(o.took)

	return o
}

// keep has callers make one RPC after the other, until enough says so of what became
// of them so far. There are never more under way than callers, however slow the
// machine is.
func keep(t testing.TB, conn *grpc.ClientConn, callers int, enough func(*outcome) bool) *outcome {
	t.Helper()

	o := newOutcome()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(t.Context(), patience)
				o.call(call, conn, nil)
				cancel()
			}
		})
	}
	defer running.Wait()
	defer stop()
	eventually(t, "as many RPCs as it takes", func() bool { return enough(o) })
	stop()
	running.Wait()
	slices.Sort(o.took)

	return o
}

// count is how many RPCs ended with a code so far.
func (o *outcome) count(code codes.Code) int {
	o.mu.Lock()
	defer o.mu.Unlock()

	return o.codes[code]
}

func (o *outcome) quantile(q float64) time.Duration {
	if len(o.took) == 0 {
		return 0
	}

	return o.took[min(int(q*float64(len(o.took))), len(o.took)-1)]
}

func (o *outcome) String() string {
	return fmt.Sprintf("%v, flags %v, those answered: p50 %v, p99 %v; first errors: %v",
		o.codes, o.flags, o.quantile(0.5).Round(time.Millisecond), o.quantile(0.99).Round(time.Millisecond), o.errors)
}

// eventually asks again and again until the answer is yes.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !reached(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// memory is a line of /proc/PID/status in bytes, such as VmHWM.
func memory(t testing.TB, pid int, line string) int {
	t.Helper()

	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("there is no /proc here to tell a process's memory: %v", err)
	}
	for l := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(l, line+":"); found {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				t.Fatal(err)
			}

			return kib << 10
		}
	}
	t.Fatalf("no %s in\n%s", line, text)

	return 0
}
