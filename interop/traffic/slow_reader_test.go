package traffic

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// A GiB through two sidecars to a client that stops reading again and again.
// What it does not read stays with the app: the sidecars hold no more than their
// windows, and the other RPCs of the same connections go on. It is not parallel:
// it moves a lot.
func TestASlowReaderOfAGiBTakesNoMemory(t *testing.T) {
	const (
		total   = 1 << 30
		message = 256 << 10
		stalls  = 4
		// mostMemory is what a sidecar may ever have had resident: a process at rest
		// takes about 25 MB, and the windows of one stream on each side some MB.
		mostMemory = 64 << 20
	)

	source := &flood{message: message, count: total / message}
	address := startFlood(t, source)
	inbound := startPlain(t, harness.Config{Service: "app", App: address, Mesh: harness.NewMesh(t, nil)})
	outbound := startPlain(t, harness.Config{Outbound: true, Default: "app", Mesh: harness.NewMesh(t,
		map[string]harness.Service{"app": {Endpoints: harness.Endpoints(inbound.Inbound)}})})
	conn := load.Dial(t, outbound.Outbound)

	stream, err := testpb.NewTestServiceClient(conn).StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}

	received := 0
	for {
		if received%(source.count/stalls) == 0 && received < source.count {
			source.awaitBlocked(t)
			if ahead := (int(source.sent.Load()) - received) * message; ahead > mostMemory {
				t.Errorf("the app is %d MiB ahead of the client", ahead>>20)
			}
			if answered := shares(t, conn, 100); answered["flood"] != 100 {
				t.Errorf("while the stream stands still, answered by %v", answered)
			}
		}

		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d messages: %v", received, err)
		}
		if len(part.GetPayload().GetBody()) != message {
			t.Fatalf("message %d has %d bytes", received, len(part.GetPayload().GetBody()))
		}
		received++
	}
	if received != source.count {
		t.Errorf("%d messages of %d", received, source.count)
	}

	for name, sidecar := range map[string]*harness.Sidecar{"outbound": outbound, "inbound": inbound} {
		peak := peakMemory(t, sidecar.PID())
		t.Logf("%s: at most %.1f MiB resident", name, float64(peak)/(1<<20))
		if peak > mostMemory {
			t.Errorf("%s: %d MiB resident at its peak, want at most %d", name, peak>>20, mostMemory>>20)
		}
	}
}

// startPlain starts a sidecar as users have it: the race detector would take
// several times the memory.
func startPlain(t *testing.T, config harness.Config) *harness.Sidecar {
	t.Helper()

	config.Binary = harness.PlainPillion(t)

	return harness.StartSidecar(t, config)
}

// flood sends messages as fast as it is let.
type flood struct {
	load.App

	message, count int
	sent           atomic.Int64
}

func startFlood(t *testing.T, source *flood) string {
	t.Helper()

	source.Name = "flood"
	listener := harness.Listen(t)
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, source)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	return listener.Addr().String()
}

func (f *flood) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	body := &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, f.message)}}
	for range f.count {
		if err := stream.Send(body); err != nil {
			return err
		}
		f.sent.Add(1)
	}

	return nil
}

// awaitBlocked waits until the app cannot send: it has sent nothing for a while.
// Nothing tells that something will not happen, so this is a matter of time.
func (f *flood) awaitBlocked(t *testing.T) {
	t.Helper()

	const still = 300 * time.Millisecond

	sent, since := f.sent.Load(), time.Now()
	eventually(t, fmt.Sprintf("the app stops sending, at %d messages", sent), func() bool {
		if now := f.sent.Load(); now != sent {
			sent, since = now, time.Now()
		}

		return time.Since(since) > still
	})
}

// peakMemory is the most that a process ever had resident, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()

	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("there is no /proc here to tell a process's memory: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				t.Fatal(err)
			}

			return kib << 10
		}
	}
	t.Fatalf("no VmHWM in\n%s", text)

	return 0
}
