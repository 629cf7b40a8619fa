package overload

import (
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc/codes"
)

// The app of these tests can do 160 RPCs a second.
const (
	workerCount = 8
	service     = 50 * time.Millisecond
	capacity    = 160
)

var adaptive = map[string]any{"overload": map[string]any{"adaptive_concurrency": map[string]any{}}}

// An app that is asked for three times what it can do. With the limit, those that
// are let through are answered nearly as quickly as ever; without it, all wait in
// the app's queue, most of them in vain.
func TestThreeTimesTheCapacity(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		settings map[string]any
		limited  bool
	}{"with the limit": {adaptive, true}, "without": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, app := startWorkers(t, workerCount, service)
			outbound, inbound := inFront(t, app, test.settings)
			conn := load.Dial(t, outbound.Outbound)
			ask(t, conn, 3*capacity, 4*time.Second, 2*time.Second)
			o := ask(t, conn, 3*capacity, 5*time.Second, 2*time.Second)
			t.Log(o)

			if !test.limited {
				if o.quantile(0.5) < 5*service {
					t.Errorf("without the limit the median is %v: this is no overload", o.quantile(0.5))
				}

				return
			}
			t.Logf("limit %v, latency %v", inbound.Metric(t, "pillion_concurrency_limit"), inbound.Metric(t, "pillion_concurrency_latency_seconds"))
			// The machine may be busy with other things; without the limit it is ten
			// times as much.
			if o.quantile(0.5) > 4*service || o.quantile(0.99) > 20*service {
				t.Errorf("the median is %v, the 99th percentile %v; an RPC takes %v", o.quantile(0.5), o.quantile(0.99), service)
			}
			if done := len(o.took); done < capacity*5*6/10 {
				t.Errorf("%d RPCs were answered well, the app can do %d", done, capacity*5)
			}
			if o.codes[codes.DeadlineExceeded] > o.codes[codes.OK]/10 {
				t.Errorf("%d RPCs met their deadline", o.codes[codes.DeadlineExceeded])
			}
			if refused := o.codes[codes.Unavailable]; refused == 0 || o.flags["OM"] != refused {
				t.Errorf("%d RPCs were refused, %d with the flag OM: %v", refused, o.flags["OM"], o.errors)
			}
		})
	}
}

// A new load that the app can bear is not refused, and an overload leaves nothing
// behind.
func TestAfterTheOverload(t *testing.T) {
	t.Parallel()

	_, app := startWorkers(t, workerCount, service)
	outbound, inbound := inFront(t, app, adaptive)
	conn := load.Dial(t, outbound.Outbound)
	if o := ask(t, conn, capacity/4, 2*time.Second, 10*time.Second); o.codes[codes.OK] < capacity/4 || o.codes[codes.Unavailable] > o.codes[codes.OK]/10 {
		t.Errorf("at a quarter of the capacity: %v", o)
	}
	if o := ask(t, conn, 5*capacity, 3*time.Second, 2*time.Second); o.codes[codes.Unavailable] == 0 {
		t.Errorf("at five times the capacity: %v", o)
	}
	eventually(t, "nothing is refused any more", func() bool {
		o := ask(t, conn, capacity/4, time.Second, 10*time.Second)
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
	ask(t, conn, 200, 3*time.Second, 10*time.Second)
	o := ask(t, conn, 200, 3*time.Second, 10*time.Second)
	t.Logf("%v; %.0f were refused, %.0f went elsewhere", o,
		shed(), outbound.Metric(t, "pillion_transparent_retries_total"))
	if o.codes[codes.OK] < 300 || o.codes[codes.Unavailable] > o.codes[codes.OK]/20 {
		t.Errorf("%v", o)
	}
	if shed() < 100 {
		t.Error("the small instance was not overloaded")
	}
}
