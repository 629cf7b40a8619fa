package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/load"
)

// 30 % of one of three instances' answers turn UNAVAILABLE, and say so in trailers.
func TestFailuresInTrailersAreHardlySeen(t *testing.T) {
	t.Parallel()

	const policies = `
- name: again
  service: app
  retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], hold_headers: true}
- name: outliers
  service: app
  outlier_ejection:
    interval: 1s
    failure_percentage: {threshold: 20, request_volume: 10}
`
	apps, service := startApps(t, 3)
	sidecar, _ := governed(t, service, policies)
	conn := load.Dial(t, sidecar.Outbound)
	calls(t, conn, 50).all(t)

	before := apps[0].came.Load()
	apps[0].failing.Store(30)
	rpcs, failed := 0, 0
	more := func(n int) {
		o := calls(t, conn, n)
		rpcs += n
		failed += o.failed
		for message, times := range o.errors {
			t.Logf("%d times %s", times, message)
		}
	}
	took := eventually(t, "the instance is left alone", func() bool {
		more(100)

		return sidecar.Metric(t, "pillion_ejections_total") > 0
	})
	seen := apps[0].came.Load()
	more(1000)
	t.Logf("left alone after %v and %d failures of %d RPCs; %d of %d RPCs failed", took, apps[0].failed.Load(), seen-before, failed, rpcs)
	if apps[0].failed.Load() < 3 {
		t.Errorf("the instance failed %d times: nothing is proven", apps[0].failed.Load())
	}
	if more := apps[0].came.Load() - seen; more > 5 {
		t.Errorf("the instance got %d RPCs while it was left alone", more)
	}
	if 200*failed >= rpcs {
		t.Errorf("%d of %d RPCs failed, want less than 0.5 %%", failed, rpcs)
	}
}

// The same by retries alone, as nobody is left alone: one RPC in ten meets a failure,
// which the budget allows for.
func TestRetriesAloneHideFailuresInTrailers(t *testing.T) {
	t.Parallel()

	const rpcs = 1000

	apps, service := startApps(t, 3)
	sidecar, _ := governed(t, service, `
- {name: again, service: app, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], hold_headers: true}}
`)
	conn := load.Dial(t, sidecar.Outbound)
	apps[0].failing.Store(30)
	o := calls(t, conn, rpcs)
	if 200*o.failed >= rpcs {
		t.Errorf("%d of %d RPCs failed: %v", o.failed, rpcs, o.errors)
	}
	if n := apps[0].failed.Load(); n < rpcs/20 {
		t.Errorf("the instance failed %d times: nothing is proven", n)
	}
}

// All instances fail: the breaker opens, and only probes reach them; once they are
// well, it closes.
func TestBreakerKeepsLoadFromWhatFails(t *testing.T) {
	t.Parallel()

	const (
		rpcs, probes = 3000, 2
		open         = 500 * time.Millisecond
	)
	apps, service := startApps(t, 3)
	sidecar, _ := governed(t, service, `
- name: break
  service: app
  circuit_breaker: {trip: {failure_ratio: 0.5, min_volume: 20, window: 10s, open_for: 500ms, max_open_for: 1s, probes: 2}}
`)
	conn := load.Dial(t, sidecar.Outbound)
	calls(t, conn, 30).all(t)
	for _, a := range apps {
		a.failing.Store(100)
	}
	isOpen := func(o *outcome) (refused int) {
		for message, times := range o.errors {
			if strings.Contains(message, `policy "break"`) && strings.Contains(message, "is open") {
				refused += times
			}
		}

		return refused
	}
	eventually(t, "the breaker opens", func() bool { return isOpen(calls(t, conn, 20)) > 0 })

	before := total(apps, came)
	o := calls(t, conn, rpcs)
	got := total(apps, came) - before
	most := int64(probes * (o.during/open + 2))
	t.Logf("of %d RPCs in %v, %d reached an instance (at most %d may), %d were refused", rpcs, o.during, got, most, isOpen(o))
	if got > most || isOpen(o) != rpcs-int(got) {
		t.Errorf("%d of %d RPCs reached an instance, want %d at most, and all others refused: %v", got, rpcs, most, o.errors)
	}
	if n := sidecar.Metric(t, "pillion_rpc_failures_total", `flag="UO"`); n < float64(isOpen(o)) {
		t.Errorf("%v RPCs are counted as refused", n)
	}

	for _, a := range apps {
		a.failing.Store(0)
	}
	eventually(t, "the breaker closes", func() bool { return calls(t, conn, 20).failed == 0 })
	calls(t, conn, 200).all(t)
}

// Under total failure there are no more attempts than the budget allows.
func TestRetriesAreNoStorm(t *testing.T) {
	t.Parallel()

	const rpcs = 1500

	apps, service := startApps(t, 3)
	sidecar, _ := governed(t, service, `
- name: again
  service: app
  retry: {max_attempts: 4, initial_backoff: 1ms, max_backoff: 1ms, retryable_status_codes: [UNAVAILABLE], hold_headers: true, budget: {ratio: 0.2, min_per_second: 2}}
`)
	conn := load.Dial(t, sidecar.Outbound)
	for _, a := range apps {
		a.failing.Store(100)
	}
	o := calls(t, conn, rpcs)
	if o.failed != rpcs {
		t.Errorf("%d of %d RPCs failed", o.failed, rpcs)
	}
	const second, floor = time.Second, 2
	attempts := total(apps, came)
	most := rpcs*12/10 + floor*int64(o.during/second+11) // the budget looks 10s back
	t.Logf("%d attempts of %d RPCs in %v, at most %d may be", attempts, rpcs, o.during, most)
	if attempts > most || attempts < rpcs*11/10 {
		t.Errorf("%d attempts of %d RPCs in %v, want %d at most, though not far below", attempts, rpcs, o.during, most)
	}
	if n := sidecar.Metric(t, "pillion_retries_total"); int64(n) != attempts-rpcs {
		t.Errorf("%v retries are counted, want %d", n, attempts-rpcs)
	}
	if n := sidecar.Metric(t, "pillion_rpc_failures_total", `flag="URX"`); n < rpcs/2 {
		t.Errorf("%v RPCs are counted as not sent again for want of budget", n)
	}
}
