package consul

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// relearnFor is how long instances keep their place that Consul does not know any
// more since it lost what it knew: servers that were set up anew, a snapshot that
// was restored, an agent in development mode that was restarted. Sidecars register
// again within seconds; agents tell new servers what they have every one to two
// minutes.
const relearnFor = 2 * time.Minute

// errRelearning is why a service is stale whose queries do not fail, too.
var errRelearning = errors.New("consul: it has lost what it knew; going on with what was known until the sidecars have registered again")

// keepMissing adds the endpoints to made that were there before Consul lost what it
// knew, and of which it still knows nothing. It says whether it did.
func (w *watched) keepMissing(made *merged, now time.Time) bool {
	last := w.last()
	if last == nil || !now.Before(w.relearning) {
		return false
	}

	// What Consul says of an instance holds, also that it is critical. Nodes may have
	// got new names.
	known := map[string]bool{}
	for _, app := range w.sides[appSide].instances {
		known[app.node+"/"+app.id] = true
	}
	var endpoints []registry.Endpoint
	if made.service != nil {
		endpoints = made.service.Endpoints
		for _, endpoint := range endpoints {
			known[endpoint.Address] = true
		}
	}
	missing := slices.DeleteFunc(slices.Clone(last.Endpoints), func(e registry.Endpoint) bool { return known[e.ID] || known[e.Address] })
	if len(missing) == 0 {
		return false
	}

	service := &registry.Service{Name: w.name, GRPC: last.GRPC, Endpoints: slices.Concat(endpoints, missing)}
	if made.service != nil {
		service.GRPC = slices.Compact(slices.Sorted(slices.Values(slices.Concat(last.GRPC, made.service.GRPC))))
	}
	slices.SortFunc(service.Endpoints, func(a, b registry.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	made.service = service

	return true
}
