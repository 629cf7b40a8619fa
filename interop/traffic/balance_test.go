package traffic

import (
	"strconv"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// One client connection, four instances: RPCs are balanced, not connections.
func TestOneConnectionIsBalancedOverFourInstances(t *testing.T) {
	t.Parallel()

	const rpcs = 10_000

	_, addresses := load.StartApps(t, 4)
	conn := load.Dial(t, harness.Outbound(t, addresses...).Outbound)

	for name, count := range shares(t, conn, rpcs) {
		percent := 100 * float64(count) / rpcs
		t.Logf("instance %s: %.2f %%", name, percent)
		if percent < 22 || percent > 28 {
			t.Errorf("instance %s answered %.2f %%, want 25 within 3", name, percent)
		}
	}
}

func TestWeightsDecideTheShares(t *testing.T) {
	t.Parallel()

	const rpcs = 10_000

	_, addresses := load.StartApps(t, 4)
	endpoints := harness.Endpoints(addresses...)
	for i := range endpoints {
		endpoints[i].Weight = i + 1
	}
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: endpoints}})
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh}).Outbound)

	answered := shares(t, conn, rpcs)
	for i := range endpoints {
		percent, want := 100*float64(answered[strconv.Itoa(i)])/rpcs, float64(10*(i+1))
		if percent < want-3 || percent > want+3 {
			t.Errorf("instance %d of weight %d answered %.2f %%, want %v within 3", i, i+1, percent, want)
		}
	}
}

func TestPickFirstStaysWithOne(t *testing.T) {
	t.Parallel()

	_, addresses := load.StartApps(t, 3)
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: "app", LoadBalancing: "pick_first",
		Mesh: harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(addresses...)}}),
	}).Outbound)

	if answered := shares(t, conn, 200); len(answered) != 1 {
		t.Errorf("answered by %v", answered)
	}
}

func TestLeastRequestUsesAll(t *testing.T) {
	t.Parallel()

	const rpcs = 4000

	_, addresses := load.StartApps(t, 4)
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: "app", LoadBalancing: "least_request",
		Mesh: harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(addresses...)}}),
	}).Outbound)

	answered := shares(t, conn, rpcs)
	for i := range addresses {
		if count := answered[strconv.Itoa(i)]; count < rpcs/10 {
			t.Errorf("instance %d answered %d of %d", i, count, rpcs)
		}
	}
}
