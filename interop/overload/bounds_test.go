package overload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// The bound on RPCs under way, on either side: more are refused at once, those
// under way end well, and then there is room again.
func TestMaxRPCs(t *testing.T) {
	t.Parallel()

	const most, more = 100, 50
	bound := map[string]any{"overload": map[string]any{"max_rpcs": most}}
	for side, refusal := range map[string]codes.Code{"outbound": codes.ResourceExhausted, "inbound": codes.Unavailable} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()

			_, app, release := startHeld(t)
			var sidecar *harness.Sidecar
			var at string
			if side == "outbound" {
				sidecar = harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Settings: bound,
					Mesh: harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(app)}})})
				at = sidecar.Outbound
			} else {
				sidecar = harness.StartSidecar(t, harness.Config{Service: "app", App: app, Mesh: harness.NewMesh(t, nil), Settings: bound})
				at = sidecar.Inbound
			}
			conn := load.Dial(t, at)

			under, running := newOutcome(), sync.WaitGroup{}
			for range most {
				running.Go(func() { under.call(t.Context(), conn, nil) })
			}
			label := fmt.Sprintf("side=%q", side)
			eventually(t, "the RPCs are under way", func() bool { return sidecar.Metric(t, "pillion_rpcs_in_flight", label) == most })

			over, refused := newOutcome(), sync.WaitGroup{}
			for range more {
				refused.Go(func() { over.call(t.Context(), conn, []byte("a request")) })
			}
			refused.Wait() // though nothing is answered
			if over.codes[refusal] != more || over.flags["OM"] != more {
				t.Errorf("above the bound: %v", over)
			}
			if shed := sidecar.Metric(t, "pillion_rpcs_shed_total", label, `reason="max_rpcs"`); shed != more {
				t.Errorf("%v RPCs count as shed, want %d", shed, more)
			}

			release()
			running.Wait()
			if under.codes[codes.OK] != most {
				t.Errorf("those under way: %v", under)
			}
			after := newOutcome()
			after.call(t.Context(), conn, nil)
			if after.codes[codes.OK] != 1 {
				t.Errorf("when there is room again: %v", after)
			}
			eventually(t, "no RPC is under way", func() bool { return sidecar.Metric(t, "pillion_rpcs_in_flight", label) == 0 })
		})
	}
}

// Refusing has to cost less than serving, or an overload feeds itself. The test is
// not parallel: it keeps the machine busy.
func TestRefusingIsCheap(t *testing.T) {
	const count, rounds, callers = 10_000, 10, 50

	serving := startCounted(t, 1000)
	serving.release()
	refusing := startCounted(t, 1)
	held, running := newOutcome(), sync.WaitGroup{}
	running.Go(func() { held.call(t.Context(), refusing.conn, nil) })
	eventually(t, "one RPC is under way", func() bool { return refusing.sidecar.Metric(t, "pillion_rpcs_in_flight") == 1 })

	// By turns, so that what else the machine does is borne by both.
	served, refused := newOutcome(), newOutcome()
	var serve, refuse time.Duration
	for range rounds {
		serve += serving.cost(t, served, callers, count/rounds)
		refuse += refusing.cost(t, refused, callers, count/rounds)
	}
	refusing.release()
	running.Wait()
	t.Logf("%v CPU for an RPC served, %v for one refused", serve/count, refuse/count)
	if served.codes[codes.OK] != count || refused.codes[codes.Unavailable] != count {
		t.Errorf("served: %v; refused: %v", served, refused)
	}
	if refuse > serve*8/10 {
		t.Errorf("%v for an RPC refused, %v for one served", refuse/count, serve/count)
	}
}

// counted is a sidecar whose time is looked at.
type counted struct {
	sidecar *harness.Sidecar
	conn    *grpc.ClientConn
	release func()
}

func startCounted(t testing.TB, most int) *counted {
	t.Helper()

	_, app, release := startHeld(t)
	sidecar := harness.StartSidecar(t, harness.Config{
		Binary: harness.PlainPillion(t), Service: "app", App: app, Mesh: harness.NewMesh(t, nil),
		Settings: map[string]any{"overload": map[string]any{"max_rpcs": most}},
	})

	return &counted{sidecar, load.Dial(t, sidecar.Inbound), release}
}

// cost makes RPCs, some at a time, and returns the time that the sidecar used.
func (c *counted) cost(t testing.TB, o *outcome, callers, count int) time.Duration {
	t.Helper()

	before := cpu(t, c.sidecar.PID())
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for range count / callers {
				o.call(t.Context(), c.conn, nil)
			}
		})
	}
	running.Wait()

	return cpu(t, c.sidecar.PID()) - before
}

// cpu is the time that a process has used, as the scheduler counts it for each of
// its threads: in nanoseconds, not in ticks.
func cpu(t testing.TB, pid int) (used time.Duration) {
	t.Helper()

	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		t.Skipf("there is no /proc/PID/task/TID/schedstat here to tell a process's time: %v", err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has just ended
		}
		var on int64
		if _, err := fmt.Sscan(string(text), &on); err != nil {
			t.Fatalf("%s: %q: %v", thread, text, err)
		}
		used += time.Duration(on)
	}

	return used
}

// All instances of a service stand still, and a crowd sends them large messages:
// what the sidecar keeps of them is bounded, calls to another service go on, and
// when it is over nothing is left. The test is not parallel: it keeps the machine
// busy.
func TestAStallOfAllInstances(t *testing.T) {
	const (
		// budget is the default of http2.buffer_budget.
		budget = 64 << 20
		// most is what the process may ever have resident: the budget, as much again
		// because the garbage collector lets the heap double, what 1,600 RPCs take
		// beside that (4 KiB each is not counted), and the 25 MiB of a process at rest.
		most    = 2*budget + 96<<20
		callers = 1600
	)
	stalled := func(c *rawh2.Conn) { // takes the bytes, gives no window back, answers nothing
		buffer := make([]byte, 64<<10)
		for {
			if _, err := c.Conn.Read(buffer); err != nil {
				return
			}
		}
	}
	well := load.StartApp(t, "well", "")
	outbound := harness.StartSidecar(t, harness.Config{
		Binary: harness.PlainPillion(t), Outbound: true, Default: "app",
		Mesh: harness.NewMesh(t, map[string]harness.Service{
			"app":   {Endpoints: harness.Endpoints(rawh2.Serve(t, stalled), rawh2.Serve(t, stalled))},
			"other": {Endpoints: harness.Endpoints(well.Address)},
		}),
	})
	others := load.Start(t, load.Dial(t, outbound.Outbound, grpc.WithAuthority("other")), load.Options{
		PerSecond: 100, MayBeSlow: true, // because of the crowd in this process
	})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o, running := newOutcome(), sync.WaitGroup{}
	message := make([]byte, 100<<10) // more than a stream's window
	for range callers / 800 {
		conn := load.Dial(t, outbound.Outbound)
		for range 800 {
			running.Go(func() { o.call(ctx, conn, message) })
		}
	}
	kept := 0.0
	eventually(t, "the budget is used up", func() bool {
		kept = max(kept, outbound.Metric(t, "pillion_buffered_bytes"))

		return outbound.Metric(t, "pillion_rpc_failures_total", `flag="OM"`) > 10
	})
	others.More(t, 2*time.Second)
	kept = max(kept, outbound.Metric(t, "pillion_buffered_bytes"))
	if kept < budget/2 || kept > budget {
		t.Errorf("%.0f MiB are kept at most; the budget is 64", kept/(1<<20))
	}
	cancel()
	running.Wait()
	eventually(t, "nothing is kept", func() bool { return outbound.Metric(t, "pillion_buffered_bytes") == 0 })
	others.More(t, time.Second)
	others.End(t)
	eventually(t, "no RPC is under way", func() bool { return outbound.Metric(t, "pillion_rpcs_in_flight") == 0 })
	for code := range o.codes {
		if code != codes.ResourceExhausted && code != codes.Canceled {
			t.Errorf("%v", o)
		}
	}
	if o.codes[codes.ResourceExhausted] == 0 || o.flags["OM"] != o.codes[codes.ResourceExhausted] {
		t.Errorf("%v", o)
	}
	peak := memory(t, outbound.PID(), "VmHWM")
	t.Logf("at most %d MiB resident, %d MiB at the end; %v", peak>>20, memory(t, outbound.PID(), "VmRSS")>>20, o.codes)
	if peak > most {
		t.Errorf("%d MiB resident at its peak, want at most %d", peak>>20, most>>20)
	}
}
