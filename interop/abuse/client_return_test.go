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
		// What is allowed in that time, twice over for what one connection still begins
		// while it is being ended, and for those of others.
		most = 2 * (500 + 1000*2)
	)
	r := startRig(t, inbound, true, nil)
	started := func() float64 {
		return r.sidecar.Metric(t, "grpc_server_started_total")
	}
	for _, client := range attack.Clients() {
		if client.Name != "rapid reset" && client.Name != "rapid reset in waves" {
			continue
		}
		before, times := started(), 0
		ctx, cancel := context.WithTimeout(t.Context(), while)
		for ctx.Err() == nil {
			if end, err := client.Run(ctx, r.port); err == nil && client.Right(end) {
				times++
			}
		}
		cancel()
		rpcs := started() - before
		t.Logf("%s: %.0f RPCs began on %d connections", client.Name, rpcs, times)
		if rpcs > most || times < 3 {
			t.Errorf("%s: %.0f RPCs began on %d connections, want at most %d on at least 3", client.Name, rpcs, times, most)
		}
	}
	r.load.End(t)
}
