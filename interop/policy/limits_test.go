package policy

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// As many RPCs pass as the limits say, where they are made and where they arrive, and
// a breaker takes a limit for no failure.
func TestRateLimits(t *testing.T) {
	t.Parallel()

	const policies = `
- name: theirs
  service: app
  rate_limit: {limits: [{requests: 10, interval: 10h, key: {metadata: tenant}, match: {metadata: [{key: tenant, present: true}]}}]}
- name: ours
  service: app
  inbound: true
  rate_limit: {limits: [{requests: 30, interval: 10h}]}
- name: break
  service: app
  circuit_breaker: {failure_codes: [RESOURCE_EXHAUSTED, UNAVAILABLE], trip: {consecutive_failures: 3}, per_instance: {consecutive_failures: 3}}
- name: outliers
  service: app
  outlier_ejection: {failure_codes: [RESOURCE_EXHAUSTED, UNAVAILABLE], consecutive_failures: 3}
`
	a := startApp(t, "app")
	mesh := harness.NewMesh(t, nil)
	mesh.SetPolicies(t, policies)
	inbound := harness.StartSidecar(t, harness.Config{Service: "app", App: a.Address, Mesh: mesh})
	outbound, _ := governed(t, harness.Service{Endpoints: harness.Endpoints(inbound.Inbound)}, policies)
	conn := load.Dial(t, outbound.Outbound)

	passed := func(count int, policy string, pairs ...string) (ok int) {
		for range count {
			_, err := call(t.Context(), conn, pairs...)
			if err == nil {
				ok++

				continue
			}
			s := status.Convert(err)
			if s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), `rate limited: policy "`+policy+`"`) || len(s.Details()) != 1 {
				t.Fatalf("an RPC ended %v, %v", err, s.Details())
			}
			if retry, is := s.Details()[0].(*errdetails.RetryInfo); !is || retry.GetRetryDelay().AsDuration() <= 0 {
				t.Fatalf("the details are %v", s.Details())
			}
		}

		return ok
	}
	for _, tenant := range []string{"x", "y"} {
		if n := passed(15, "theirs", "tenant", tenant); n != 10 {
			t.Errorf("%d RPCs of tenant %s passed, want 10", n, tenant)
		}
	}
	if n := passed(30, "ours"); n != 10 {
		t.Errorf("%d further RPCs passed where they arrived, want 10", n)
	}
	if n := a.came.Load(); n != 30 {
		t.Errorf("%d RPCs reached the app, want 30", n)
	}
	if out, in := outbound.Metric(t, "pillion_rpc_failures_total", `flag="RL"`), inbound.Metric(t, "pillion_rpc_failures_total", `flag="RL"`); out != 10 || in != 20 {
		t.Errorf("%v RPCs are counted as refused where they were made, and %v where they arrived", out, in)
	}
}

// Each RPC is copied; whatever becomes of the copy, nobody notices.
func TestMirror(t *testing.T) {
	t.Parallel()

	const rpcs = 200

	apps, service := startApps(t, 2)
	copies := startApp(t, "copies")
	mesh := harness.NewMesh(t, map[string]harness.Service{
		"app":    service,
		"copies": {Endpoints: harness.Endpoints(copies.Address)},
	})
	mesh.SetPolicies(t, `
- {name: shadow, service: app, route: {rules: [{mirror: {to: {service: copies}, max_concurrent: 1000}}]}}
- {name: again, service: app, retry: {max_attempts: 2, retryable_status_codes: [UNAVAILABLE]}}
`)
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh}).Outbound)
	// Where copies go is looked up when there is the first.
	eventually(t, "RPCs are copied", func() bool {
		calls(t, conn, 1).all(t)

		return copies.came.Load() > 0
	})

	for round, failing := range []int64{0, 100} {
		copies.failing.Store(failing)
		calls(t, conn, rpcs, "mark", "yes").all(t)
		eventually(t, "each RPC is copied", func() bool { return copies.marked.Load() >= int64(round+1)*rpcs })
	}
	if n := copies.marked.Load(); n != 2*rpcs {
		t.Errorf("%d copies of %d RPCs", n, 2*rpcs)
	}
	if copies.copies.Load() != copies.came.Load() {
		t.Errorf("%d of %d copies say that they are", copies.copies.Load(), copies.came.Load())
	}
	for _, a := range apps {
		if n := a.copies.Load(); n > 0 {
			t.Errorf("instance %s got %d copies", a.Name, n)
		}
	}
	copies.Kill()
	calls(t, conn, rpcs).all(t)
}
