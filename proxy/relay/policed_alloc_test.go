package relay

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/retry"
)

// Policies that have nothing to do allocate nothing: those of an RPC that does not fail
// have what they need from the RPC before. It is not parallel: what is counted is
// what the whole process allocates.
func TestPoliciesThatDoNothingAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget some of what they are given")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or pools would lose it too
	retries := retryPolicy(func(p *retry.Policy) {
		p.Limits = retry.NewLimits(&retry.BudgetOptions{Ratio: 0.2}, &retry.ThrottlingOptions{MaxTokens: 10, TokenRatio: 0.1})
	})
	hedging := hedgingPolicy()
	cost := map[string]float64{}
	for name, give := range map[string]func(*policed){
		"none": nil,
		"retry and timeouts": func(p *policed) {
			gives(time.Minute, time.Hour, 2*time.Hour)(p)
			p.retry = retries
		},
		"hedging": func(p *policed) { p.hedging = hedging },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, options{Config: Config{Random: even}})
			a := r.listen(1)[0]
			if give != nil {
				r = r.under(give)
			}
			id := uint32(1)
			exchange := func() {
				r.Request(id, "/a.B/C", true)
				a.Conn().Frames()
				a.Conn().TrailersOnly(id, "0")
				if f := r.Frames(); len(f) != 1 || f[0].Get("grpc-status") != "0" {
					t.Fatalf("the caller got %v", f)
				}
				id += 2
			}
			const rpcs = 400
			for range rpcs { // all that grows has grown then
				exchange()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rpcs {
				exchange()
			}
			runtime.ReadMemStats(&after)
			cost[name] = float64(after.Mallocs-before.Mallocs) / rpcs
		})
	}
	for name, n := range cost {
		// What the peers of the test allocate differs a little.
		if more := n - cost["none"]; more > 0.5 {
			t.Errorf("with %s an RPC takes %.2f allocations more than the %.2f without", name, more, cost["none"])
		}
	}
	t.Log(fmt.Sprint(cost))
}
