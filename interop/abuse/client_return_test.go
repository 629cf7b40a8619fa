package abuse

import (
	"context"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
)

// Who is ended for resetting streams and comes back at once has no more RPCs sent to
// the app than one connection may throw away: 500 at once and 1000 a second.
func TestComingBackIsOfNoUse(t *testing.T) {
	t.Parallel()

	const (
		while = 2 * time.Second
		least = 3
		// What is allowed at once and in a second, twice over for what one connection still
		// begins while it is being ended, and for those of others.
		atOnce, perSecond = 2 * 500, 2 * 1000
	)
	r := startRig(t, inbound, true, nil)
	started := func() float64 {
		return r.sidecar.Metric(t, "grpc_server_started_total")
	}
	for _, client := range attack.Clients() {
		if client.Name != "rapid reset" && client.Name != "rapid reset in waves" {
			continue
		}
		before, times, began := started(), 0, time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for ctx.Err() == nil && (time.Since(began) < while || times < least) {
			some, done := context.WithTimeout(ctx, while)
			if end, err := client.Run(some, r.port); err == nil && client.Right(end) {
				times++
			}
			done()
		}
		cancel()
		rpcs, most := started()-before, atOnce+perSecond*time.Since(began).Seconds()
		t.Logf("%s: %.0f RPCs began on %d connections", client.Name, rpcs, times)
		if rpcs > most || times < least {
			t.Errorf("%s: %.0f RPCs began on %d connections, want at most %.0f on at least %d", client.Name, rpcs, times, most, least)
		}
	}
	r.load.End(t)
}
