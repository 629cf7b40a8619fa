package explain

import (
	"maps"
	"slices"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// Unused makes instances of a service that are never connected to, to see how one of
// them would be picked. done lets go of them.
func Unused(service string, endpoints []registry.Endpoint, set *policy.Set, way balance.Policy, meta map[string]string) (c *upstream.Cluster, done func()) {
	// The same question has the same answer: which of several might be picked is not left
	// to chance.
	random := func() uint64 { return 0 }
	opts := upstream.Options{Meta: maps.Clone(meta), Salt: 1, Random: random}.WithDefaults()
	c = upstream.NewCluster(service, way, &opts, new(telemetry.Counters).Service(telemetry.Outbound, service))
	if p := set.Service(service).Cluster(); p != nil {
		quiet := *p
		// Nothing is to be sent, not even to ask whether they are well.
		quiet.Health, quiet.Ejection, quiet.Breaker, quiet.SlowStart = nil, nil, nil, nil
		c.Configure(&quiet)
	}
	c.Update(slices.Clone(endpoints), false)
	return c, c.Close
}
