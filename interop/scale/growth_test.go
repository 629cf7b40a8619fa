package scale

import (
	"fmt"
	"testing"
	"time"
)

// TestGrowth says what grows with the services that a sidecar calls and with the documents
// of each.
func TestGrowth(t *testing.T) {
	if !*full {
		t.Skip("it is for `make scale`")
	}
	for _, z := range []size{
		{sidecars: 20, services: 60, uses: 2, documents: 10},
		{sidecars: 20, services: 60, uses: 10, documents: 10},
		{sidecars: 20, services: 60, uses: 50, documents: 10},
		{sidecars: 4, services: 1, uses: 1, documents: 10},
		{sidecars: 4, services: 1, uses: 1, documents: 1000},
		{sidecars: 4, services: 1, uses: 1, documents: 10_000},
	} {
		t.Run(fmt.Sprintf("services=%d,documents=%d", z.uses, z.documents), func(t *testing.T) {
			before := memory()
			f := startFleet(t, z)
			f.settles(t)
			t.Logf("begin: %d KB for each sidecar, %d requests held", (memory()-before)/z.sidecars>>10, f.wire.held.Load())
			time.Sleep(2 * time.Second)
			var s spread
			t.Logf("change: %v", f.during(t, func() { s = f.change(t, hub) }))
			t.Logf("change: in force %v", s)
			t.Logf("the status: %v", f.during(t, func() { f.settles(t) }))
		})
	}
}
