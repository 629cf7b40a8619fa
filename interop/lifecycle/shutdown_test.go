package lifecycle

import (
	"context"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// withDrain starts a sidecar with both sides, which on SIGTERM waits that long.
func withDrain(t *testing.T, timeout string) *harness.Sidecar {
	t.Helper()

	app := startEcho(t)

	return harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: "app", Service: "app", App: app,
		Mesh:     harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(app)}}),
		Settings: map[string]any{"drain": map[string]any{"timeout": timeout}},
	})
}

// With nothing under way, SIGTERM and SIGINT end it at once and well.
func TestASignalEndsAnIdleSidecar(t *testing.T) {
	t.Parallel()

	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()

			sidecar := withDrain(t, "60s")
			ping(t, sidecar.Outbound)
			ping(t, sidecar.Inbound)

			began := time.Now()
			sidecar.Signal(t, signal)
			if code := sidecar.Wait(t); code != 0 {
				t.Errorf("exit %d", code)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// What is under way on either side ends as it would have; meanwhile health says
// that nothing new should come, and the outbound side goes on serving the app.
func TestSIGTERMWaitsForWhatIsUnderWay(t *testing.T) {
	t.Parallel()

	sidecar := withDrain(t, "60s")
	in, out := hold(t, sidecar.Inbound), hold(t, sidecar.Outbound)

	// The watch is there before the signal: it is told of the change.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := healthpb.NewHealthClient(dial(t, sidecar.Admin)).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	await := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()

		for {
			answer, err := watch.Recv()
			if err != nil {
				t.Fatalf("health never was %v: %v", want, err)
			}
			if answer.GetStatus() == want {
				return
			}
		}
	}
	await(healthpb.HealthCheckResponse_SERVING)

	sidecar.Signal(t, syscall.SIGTERM)
	await(healthpb.HealthCheckResponse_NOT_SERVING)
	if code := readiness(t, sidecar); code != http.StatusServiceUnavailable {
		t.Errorf("/ready says %d while draining", code)
	}

	if err := in.roundTrip(); err != nil {
		t.Errorf("the inbound stream, while draining: %v", err)
	}
	if err := out.roundTrip(); err != nil {
		t.Errorf("the outbound stream, while draining: %v", err)
	}
	// The app may need the mesh to finish what it does.
	ping(t, sidecar.Outbound)

	in.finish(t)
	out.finish(t)
	cancel() // the watch is a person's, and not waited for; but ours it is
	if code := sidecar.Wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func readiness(t *testing.T, sidecar *harness.Sidecar) int {
	t.Helper()

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+sidecar.Admin+"/ready", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Errorf("/ready: %v", err)

		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()

	return response.StatusCode
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()

	sidecar := withDrain(t, "300s")
	in := hold(t, sidecar.Inbound)

	sidecar.Signal(t, syscall.SIGTERM)
	// Signals are not queued: the second counts only once the first was taken.
	for readiness(t, sidecar) == http.StatusOK {
		continue
	}

	began := time.Now()
	sidecar.Signal(t, syscall.SIGTERM)
	sidecar.Wait(t)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := in.roundTrip(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream that was cut: %v", err)
	}
}

// What does not end is cut off when the time is over.
func TestTheWaitHasABound(t *testing.T) {
	t.Parallel()

	sidecar := withDrain(t, "1s")
	in := hold(t, sidecar.Inbound)

	began := time.Now()
	sidecar.Signal(t, syscall.SIGTERM)
	sidecar.Wait(t)
	if took := time.Since(began); took < 900*time.Millisecond || took > 20*time.Second {
		t.Errorf("it took %v, want 1s", took)
	}
	if err := in.roundTrip(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream that was cut: %v", err)
	}
}
