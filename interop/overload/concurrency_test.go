package overload

import (
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc/codes"
)

// The app of these tests can do 80 RPCs a second: so few that a slow machine does as
// many, and three times as many callers.
const (
	workerCount = 8
	service     = 100 * time.Millisecond
	capacity    = 80
)

var adaptive = map[string]any{"overload": map[string]any{"adaptive_concurrency": map[string]any{}}}

// An app that is asked for three times what it can do. With the limit, those that
// are let through are answered nearly as quickly as ever; without it, all wait in
// the app's queue, most of them in vain. Both at the same time, so that the machine is
// as slow for the one as for the other.
func TestThreeTimesTheCapacity(t *testing.T) {
	t.Parallel()

	const deadline, while = 2 * time.Second, 5 * time.Second
	type result struct {
		*outcome

		worked float64 // by the app, RPCs a second
	}
	overload := func(t *testing.T, settings map[string]any) result {
		t.Helper()

		workers, app := startWorkers(t, workerCount, service)
		outbound, inbound := inFront(t, app, settings)
		conn := load.Dial(t, outbound.Outbound)
		ask(t, conn, 3*capacity, 4*time.Second, deadline)
		before, began := workers.worked.Load(), time.Now()
		o := ask(t, conn, 3*capacity, while, deadline)
		worked := float64(workers.worked.Load()-before) / time.Since(began).Seconds()
		t.Logf("%v; limit %v, latency %v", o,
			inbound.Metric(t, "pillion_concurrency_limit"), inbound.Metric(t, "pillion_concurrency_latency_seconds"))

		return result{o, worked}
	}
	var limited, without result
	t.Run("both", func(t *testing.T) {
		t.Run("with the limit", func(t *testing.T) {
			t.Parallel()

			limited = overload(t, adaptive)
		})
		t.Run("without", func(t *testing.T) {
			t.Parallel()

			without = overload(t, nil)
		})
	})
	if t.Failed() {
		return
	}

	if without.quantile(0.5) < 5*service {
		t.Errorf("without the limit the median is %v: this is no overload", without.quantile(0.5))
	}
	if limited.quantile(0.5) > without.quantile(0.5)/2 || limited.quantile(0.9) > without.quantile(0.5) {
		t.Errorf("the median is %v, without the limit %v; nine in ten take up to %v; an RPC takes %v",
			limited.quantile(0.5), without.quantile(0.5), limited.quantile(0.9), service)
	}
	if done := float64(len(limited.took)) / while.Seconds(); done < without.worked*0.6 {
		t.Errorf("%.0f RPCs a second were answered well, an app that is busy all the time does %.0f", done, without.worked)
	}
	if limited.codes[codes.DeadlineExceeded] > limited.codes[codes.OK]/10 {
		t.Errorf("%d RPCs met their deadline", limited.codes[codes.DeadlineExceeded])
	}
	if refused := limited.codes[codes.Unavailable]; refused == 0 || limited.flags["OM"] != refused {
		t.Errorf("%d RPCs were refused, %d with the flag OM: %v", refused, limited.flags["OM"], limited.errors)
	}
}

// A new load that the app can bear is not refused, and an overload leaves nothing
// behind.
func TestAfterTheOverload(t *testing.T) {
	t.Parallel()

	_, app := startWorkers(t, workerCount, service)
	outbound, inbound := inFront(t, app, adaptive)
	conn := load.Dial(t, outbound.Outbound)
	const few = workerCount / 4
	some := func(o *outcome) bool { return o.count(codes.OK)+o.count(codes.Unavailable) >= 30 }
	if o := keep(t, conn, few, some); o.codes[codes.Unavailable] > o.codes[codes.OK]/10 {
		t.Errorf("at a quarter of the capacity: %v", o)
	}
	if o := ask(t, conn, 5*capacity, 3*time.Second, 4*time.Second); o.codes[codes.Unavailable] == 0 {
		t.Errorf("at five times the capacity: %v", o)
	}
	eventually(t, "nothing is refused any more", func() bool {
		o := keep(t, conn, few, some)
		t.Logf("after the overload: %v; limit %v", o, inbound.Metric(t, "pillion_concurrency_limit"))

		return o.codes[codes.OK] > 0 && o.codes[codes.Unavailable] == 0
	})
	eventually(t, "no RPC is counted", func() bool {
		return inbound.Metric(t, "pillion_rpcs_in_flight") == 0 && inbound.Metric(t, "pillion_concurrency_waiting") == 0
	})
}

// Of two instances one has few workers. What its sidecar refuses, the other
// answers: the callers see nothing of it.
func TestTheOtherInstanceTakesThem(t *testing.T) {
	t.Parallel()

	_, small := startWorkers(t, 2, service)
	_, large := startWorkers(t, 200, service)
	var sidecars []*harness.Sidecar
	var addresses []string
	for app, settings := range map[string]map[string]any{small: adaptive, large: nil} {
		s := harness.StartSidecar(t, harness.Config{
			Binary: harness.PlainPillion(t), Service: "app", App: app, Mesh: harness.NewMesh(t, nil), Settings: settings,
		})
		sidecars, addresses = append(sidecars, s), append(addresses, s.Inbound)
	}
	shed := func() float64 {
		return sidecars[0].Metric(t, "pillion_rpcs_shed_total") + sidecars[1].Metric(t, "pillion_rpcs_shed_total")
	}
	outbound := startOutbound(t, nil, addresses...)
	conn := load.Dial(t, outbound.Outbound)
	// As many refused at once as may be sent again. The first have the limit find out.
	const callers = 40
	keep(t, conn, callers, func(o *outcome) bool { return o.count(codes.OK) >= 300 && shed() >= 20 })
	before := shed()
	o := keep(t, conn, callers, func(o *outcome) bool { return o.count(codes.OK) >= 300 && shed() >= before+100 })
	t.Logf("%v; %.0f were refused, %.0f went elsewhere", o,
		shed(), outbound.Metric(t, "pillion_transparent_retries_total"))
	if len(o.codes) > 2 || o.codes[codes.Unavailable] > o.codes[codes.OK]/20 {
		t.Errorf("%v", o)
	}
}
