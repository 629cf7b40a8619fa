package policy

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// split sends that many of 10,000 users to v2, and always the same ones.
func split(canary int) string {
	return fmt.Sprintf(`
- {name: versions, service: app, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}
- name: canary
  service: app
  route: {rules: [{split: {destinations: [{weight: %d, subset: v1}, {weight: %d, subset: v2}], sticky: {key: {metadata: user}}}}]}
`, 10_000-canary, canary)
}

// versions starts two instances of v1 and one of v2. Their names are their versions.
func versions(t *testing.T) (service harness.Service) {
	t.Helper()

	for _, version := range []string{"v1", "v1", "v2"} {
		service.Endpoints = append(service.Endpoints, harness.Endpoint{
			Address: startApp(t, version).Address, Meta: map[string]string{"version": version},
		})
	}

	return service
}

// whose returns which version each of 200 users gets.
func whose(t *testing.T, conn *grpc.ClientConn) (version [200]string) {
	t.Helper()

	const workers = 10

	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for i := worker; i < len(version); i += workers {
				name, err := call(t.Context(), conn, "user", fmt.Sprint("user-", i))
				if err != nil {
					t.Error(err)
				}
				version[i] = name
			}
		})
	}
	all.Wait()

	return version
}

// A user keeps the version, on whatever sidecar and after whatever restart; and a
// greater weight moves users from stable to canary only.
func TestStickySplit(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{"app": versions(t)})
	mesh.SetPolicies(t, split(3000))
	config := harness.Config{Outbound: true, Default: "app", Mesh: mesh}
	start := func() (*harness.Sidecar, *grpc.ClientConn) {
		s := harness.StartSidecar(t, config)

		return s, load.Dial(t, s.Outbound)
	}
	one, conn := start()
	two, other := start()
	before := whose(t, conn)
	if got := whose(t, other); got != before {
		t.Error("users get other versions on the other sidecar")
	}
	one.Kill()
	two.Kill()
	_, conn = start()
	_, other = start()
	if whose(t, conn) != before || whose(t, other) != before {
		t.Error("users get other versions after a restart")
	}

	mesh.SetPolicies(t, split(6000))
	eventually(t, "the new weight holds", func() bool { return whose(t, conn) != before && whose(t, other) != before })
	after := whose(t, conn)
	if whose(t, other) != after {
		t.Error("users get other versions on the other sidecar")
	}
	canary, moved := 0, 0
	for i := range before {
		if before[i] == "v2" {
			canary++
		}
		if before[i] != after[i] {
			moved++
			if before[i] == "v2" {
				t.Errorf("user %d was moved back from v2", i)
			}
		}
	}
	t.Logf("%d of %d users had v2, %d moved there", canary, len(before), moved)
	if canary < 35 || canary > 85 || moved < 35 || moved > 85 { // 60 of each, give or take four deviations
		t.Errorf("%d of %d users had v2, and %d moved there: want 60 of each, about", canary, len(before), moved)
	}
}

// Policies change again and again under load: no RPC fails, the change holds within a
// second, and a stream that is under way stays where it is.
func TestPoliciesChangeUnderLoad(t *testing.T) {
	t.Parallel()

	sidecar, mesh := governed(t, versions(t), split(0))
	conn := load.Dial(t, sidecar.Outbound)

	ctx := metadata.AppendToOutgoingContext(t.Context(), "user", "streaming")
	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	said := func() string {
		if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}

		return string(answer.GetPayload().GetBody())
	}
	said()

	rpcs := load.Start(t, conn, load.Options{PerSecond: 100, StreamEvery: 10})
	rpcs.More(t, 200*time.Millisecond)
	others := []string{`
- {name: patience, service: app, timeout: {default: 50s, max: 55s}}
- {name: places, service: app, circuit_breaker: {max_concurrent: 1000, trip: {failure_ratio: 0.5}, per_instance: {failure_ratio: 0.5}}}
`, `
- {name: balance, service: app, load_balancing: {policy: least_request, panic_threshold: 10}}
- {name: again, service: app, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], hold_headers: true}}
- {name: outliers, service: app, outlier_ejection: {interval: 1s}}
`, ""}
	for i := range 6 {
		canary, want := 10_000, "v2"
		if i%2 == 1 {
			canary, want = 0, "v1"
		}
		control := load.StartControl(t)
		mesh.SetPolicies(t, split(canary)+others[i%len(others)])
		took := eventually(t, "the change holds", func() bool {
			name, err := call(t.Context(), conn, "user", "who")
			if err != nil {
				t.Fatal(err)
			}

			return name == want
		})
		// It takes some round trips, and what they cost is the machine's.
		if own := control.Stop(); took > time.Second+20*own {
			t.Errorf("the change took %v, a round trip of the machine's own %v at worst", took, own)
		}
		rpcs.More(t, 200*time.Millisecond)
		rpcs.Check(t, "a change of policies")
		if name := said(); name != "v1" {
			t.Errorf("the stream went on to %s", name)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r := rpcs.End(t); r.Answered["v1"] == 0 || r.Answered["v2"] == 0 {
		t.Errorf("answered by %v", r.Answered)
	}
}
