package consul

import (
	"cmp"
	"maps"
	"slices"

	"github.com/pillion-proxy/pillion/registry"
)

// place names an instance within a service. Consul's ids are unique on one node
// only.
type place struct{ node, id string }

// merged is a service made of what two queries said, and what is to be known
// about it beyond what a registry hands over.
type merged struct {
	service *registry.Service // nil: Consul knows no instance at all
	// direct are the endpoints that are dialled themselves, past no sidecar.
	direct map[string]bool
	// waiting are the endpoints that are there only because they were there
	// before, while their checks have not run since an agent's restart.
	waiting map[string]bool
	// missing says that endpoints are there only because they were there before,
	// while Consul has yet to learn of them anew.
	missing bool
}

// reach is which instances may be dialled.
type reach struct {
	// requireSidecar leaves out those that can only be dialled past a sidecar.
	requireSidecar bool
	// connect takes in what proves an identity of Consul's Connect CA.
	connect bool
}

// merge makes a service of its app's instances and the sidecars beside them.
// Which address an endpoint has: that of its Pillion; else, with reach.connect, that
// of another sidecar (Envoy's, which speaks mTLS alone); else the app's own, unless
// reach.requireSidecar. A sidecar that is critical takes its instance with it: nobody
// goes past a sidecar that is down. stays says which instances whose checks have not
// run yet keep their place.
func merge(name string, apps, sidecars []instance, reach reach, stays func(id string) bool) merged {
	if len(apps) == 0 {
		return merged{}
	}

	beside := besides(sidecars, reach.connect)
	var (
		made    = merged{service: &registry.Service{Name: name}, direct: map[string]bool{}, waiting: map[string]bool{}}
		names   []string
		weights = map[string]int{}
		total   int
	)
	for i := range apps {
		app := &apps[i]
		names = splitGRPC(names, app.meta)

		id := app.node + "/" + app.id
		address, standing, security := app.address, app.standing, registry.SecurityPlaintext
		sidecar := beside[place{app.node, app.id}]
		switch {
		case sidecar != nil:
			address, standing = sidecar.address, max(standing, sidecar.standing)
			security, _ = sidecar.speaks(reach.connect)
		case address == "":
			continue
		case app.native && reach.connect:
			security = registry.SecurityMTLS
		case reach.requireSidecar:
			continue
		}
		if _, double := weights[id]; double {
			continue
		}

		switch standing {
		case critical:
			continue
		case unknown:
			if !stays(id) {
				continue
			}
			made.waiting[id] = true
		}
		weights[id] = app.weight(standing)
		total += weights[id]
		if sidecar == nil {
			made.direct[id] = true
		}
		in := app.subsets
		if sidecar != nil {
			in = sidecar.subsets // as with Envoy, which is told of sidecars alone
		}
		endpoint := registry.Endpoint{ID: id, Address: address, Meta: marked(app.meta, in, standing), Tags: app.tags, Security: security}
		if reach.connect && security != registry.SecurityPlaintext {
			endpoint.Identities, endpoint.ServerName = app.identity()
		}
		made.service.Endpoints = append(made.service.Endpoints, endpoint)
	}

	made.service.Endpoints = weigh(made.service.Endpoints, weights, total)
	slices.SortFunc(made.service.Endpoints, func(a, b registry.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(names)
	made.service.GRPC = slices.Compact(names)

	return made
}

// besides finds the sidecar beside each instance: a Pillion before others, and then
// the one with the least id.
func besides(sidecars []instance, connect bool) map[place]*instance {
	beside := map[place]*instance{}
	for i := range sidecars {
		sidecar := &sidecars[i]
		if _, usable := sidecar.speaks(connect); !usable || sidecar.destination == "" || sidecar.address == "" {
			continue
		}
		at := place{sidecar.node, sidecar.destination}
		if other := beside[at]; other == nil || sidecar.before(other) {
			beside[at] = sidecar
		}
	}

	return beside
}

// weigh sets the weights. Weight 0, which Consul allows while a check warns,
// takes an endpoint out as long as there are others.
func weigh(endpoints []registry.Endpoint, weights map[string]int, total int) []registry.Endpoint {
	if total > 0 {
		endpoints = slices.DeleteFunc(endpoints, func(e registry.Endpoint) bool { return weights[e.ID] == 0 })
	}
	for i := range endpoints {
		endpoints[i].Weight = uint32(min(max(1, weights[endpoints[i].ID]), 65535))
	}

	return endpoints
}

// same says whether two states of a service are the same to who watches it.
func same(a, b *registry.Service) bool {
	if a == nil || b == nil {
		return a == b
	}

	return a.Name == b.Name && a.Stale == b.Stale && slices.Equal(a.GRPC, b.GRPC) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b registry.Endpoint) bool {
			return a.ID == b.ID && a.Address == b.Address && a.Weight == b.Weight &&
				maps.Equal(a.Meta, b.Meta) && slices.Equal(a.Tags, b.Tags) &&
				a.Security == b.Security && slices.Equal(a.Identities, b.Identities) && a.ServerName == b.ServerName
		})
}
