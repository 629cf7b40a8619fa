package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/load"
)

// One of three instances becomes 20 times slower. Whatever the policies that see to it:
// soon less than one RPC in a hundred meets it.
func TestSlowInstanceIsAvoided(t *testing.T) {
	t.Parallel()

	const (
		normal, slow = 50 * time.Millisecond, time.Second
		rpcs         = 300 // of each look
	)
	for name, policies := range map[string]string{
		"the instance's circuit breaker": `
- {name: balance, service: app, load_balancing: {policy: least_request}}
- {name: fuse, service: app, circuit_breaker: {per_instance: {slow_call_ratio: 0.5, slow_call: 600ms, min_volume: 5, window: 2s, open_for: 10s, probes: 1}}}
`,
		"timeouts of attempts, retries and ejection": `
- {name: patience, service: app, timeout: {per_attempt: 700ms}}
- {name: again, service: app, retry: {max_attempts: 3, retryable_status_codes: [DEADLINE_EXCEEDED]}}
- {name: outliers, service: app, outlier_ejection: {interval: 500ms, consecutive_failures: 3}}
`,
		"ewma": `
- {name: balance, service: app, load_balancing: {policy: ewma}}
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			apps, service := startApps(t, 3)
			for _, a := range apps {
				a.slow.Store(int64(normal))
			}
			sidecar, _ := governed(t, service, policies)
			conn := load.Dial(t, sidecar.Outbound)
			calls(t, conn, 100).all(t)
			if apps[0].came.Load() == 0 {
				t.Fatal("the instance got nothing while it was well")
			}

			apps[0].slow.Store(int64(slow))
			began := time.Now()
			var p99 time.Duration
			looks := 0
			took := eventually(t, "p99 is what it was", func() bool {
				looks++
				o := calls(t, conn, rpcs).all(t)
				slices.Sort(o.took)
				p99 = o.took[len(o.took)*99/100]

				return p99 < slow*6/10
			})
			t.Logf("p99 is %v after %v and %d looks; the instance got %d RPCs", p99, took, looks, apps[0].came.Load())
			if looks > 5 {
				t.Errorf("it took %d times %d RPCs, %v", looks, rpcs, time.Since(began))
			}
		})
	}
}
