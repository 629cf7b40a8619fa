package overload

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/load"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"google.golang.org/grpc/codes"
)

// An attacker opens RPCs that he never sends more of than headers, or a part of a
// message: they do not keep the places of those that are complete, in front of an app
// that has far more workers than it needs.
func TestHalfOpenRequests(t *testing.T) {
	t.Parallel()

	for name, part := range map[string][]byte{
		"headers":           nil,
		"part of a prefix":  {0, 0},
		"most of a message": append([]byte{0, 0, 0, 4, 0}, make([]byte, 1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, app := startWorkers(t, 1000, service)
			outbound, inbound := inFront(t, app, adaptive)
			conn := load.Dial(t, outbound.Outbound)
			const callers, some, many = 5, 50, 200
			keep(t, conn, callers, func(o *outcome) bool { return o.count(codes.OK) >= some })

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var attack sync.WaitGroup
			for range 4 {
				c := rawh2.Dial(t, inbound.Inbound)
				attack.Go(func() { openHalf(ctx, c, part) })
				attack.Go(func() { // takes the refusals
					for {
						if _, err := c.Read(); err != nil {
							return
						}
					}
				})
				defer func() { _ = c.Conn.Close() }()
			}
			// Until there was an attack to speak of, and none of those who ask beside it was
			// left aside.
			before := inbound.Metric(t, "pillion_rpcs_shed_total")
			o := keep(t, conn, callers, func(o *outcome) bool {
				return o.count(codes.OK)+o.count(codes.Unavailable) >= many && inbound.Metric(t, "pillion_rpcs_shed_total") >= before+400
			})
			cancel()
			t.Logf("%v; limit %v, %v half-open RPCs or others refused", o,
				inbound.Metric(t, "pillion_concurrency_limit"), inbound.Metric(t, "pillion_rpcs_shed_total"))
			// They are far fewer than the limit begins with.
			if refused := o.codes[codes.Unavailable]; len(o.codes) > 2 || refused > o.codes[codes.OK]/20 {
				t.Errorf("honest RPCs beside the attack: %v", o)
			}
		})
	}
}

// openHalf opens 100 RPCs a second on a connection.
func openHalf(ctx context.Context, c *rawh2.Conn, part []byte) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for id := uint32(1); ; id += 2 {
		select {
		case <-ctx.Done():
			_ = c.Conn.Close()

			return
		case <-tick.C:
		}
		if c.Headers(id, false, rawh2.Request("app", "/grpc.testing.TestService/UnaryCall")...) != nil {
			return
		}
		if part != nil && c.Data(id, false, part) != nil {
			return
		}
	}
}
