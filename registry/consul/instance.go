package consul

import (
	"cmp"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
)

// instance is one registration, of an app or of a sidecar: the little that is
// kept of what Consul says.
type instance struct {
	node, id string
	// address is what to dial, as registry.ParseAddress takes it; empty where
	// the registration has none.
	address string
	meta    map[string]string
	tags    []string
	// passing and warning are the weights for those standings.
	passing, warning int
	standing         standing
	// destination is the app's id that a sidecar says it stands beside.
	destination string
	// native says that an app proves its identity itself, without a sidecar.
	native bool
	// service is the name of an app's service, and the others are where it is: what
	// its identity is made of.
	service, datacenter, namespace, partition string
	// subsets are those that it is in, by Consul's configuration entries.
	subsets []inSubset
}

// standing is what the checks of an instance say together: the worst of them.
type standing int

const (
	passing standing = iota
	warning
	// unknown: a check has not run since its agent started; Consul says critical.
	unknown
	critical
)

// instancesOf takes from an answer what is kept of it. Entries that make no
// sense are left out, and so is what is beyond the bound.
func instancesOf(entries []*api.ServiceEntry, most int, subsets *subsetsOf) []instance {
	instances := make([]instance, 0, min(len(entries), most))
	for _, entry := range entries[:min(len(entries), most)] {
		if entry == nil || entry.Service == nil || entry.Service.ID == "" {
			continue
		}
		node := entry.Node
		if node == nil {
			node = &api.Node{}
		}
		instances = append(instances, instance{
			node:        node.Node,
			id:          entry.Service.ID,
			address:     addressOf(entry),
			meta:        entry.Service.Meta,
			tags:        entry.Service.Tags,
			passing:     entry.Service.Weights.Passing,
			warning:     entry.Service.Weights.Warning,
			standing:    standingOf(entry),
			destination: destinationOf(entry.Service),
			native:      entry.Service.Connect != nil && entry.Service.Connect.Native,
			service:     entry.Service.Service,
			datacenter:  node.Datacenter,
			namespace:   entry.Service.Namespace,
			partition:   cmp.Or(entry.Service.Partition, node.Partition),
			subsets:     subsets.is(entry),
		})
	}

	return instances
}

// weight is the share of traffic in a standing. Consul never gives passing
// instances a share of 0, so 0 there means that the registration does not say.
func (i *instance) weight(s standing) int {
	switch {
	case i.passing <= 0:
		return 1
	case s == warning:
		return max(0, i.warning)
	default:
		return i.passing
	}
}

// addressOf is the instance's own address, or its node's where it has none.
func addressOf(entry *api.ServiceEntry) string {
	service := entry.Service
	if service.SocketPath != "" {
		if !filepath.IsAbs(service.SocketPath) {
			return ""
		}

		return "unix://" + service.SocketPath
	}

	host := service.Address
	if host == "" && entry.Node != nil {
		host = entry.Node.Address
	}
	if host == "" || service.Port <= 0 || service.Port > 65535 {
		return ""
	}

	return net.JoinHostPort(host, strconv.Itoa(service.Port))
}

// standingOf judges by all checks but a Pillion's alias check: the app itself is
// seen too, and the alias only lags behind it.
func standingOf(entry *api.ServiceEntry) standing {
	worst := passing
	for _, check := range entry.Checks {
		if check == nil {
			continue
		}
		if check.CheckID == aliasCheckID(entry.Service.ID) && entry.Service.Meta[metaPillion] != "" {
			continue
		}
		worst = max(worst, standingOfCheck(check))
	}

	return worst
}

func standingOfCheck(check *api.HealthCheck) standing {
	switch check.Status {
	case api.HealthPassing:
		return passing
	case api.HealthWarning:
		return warning
	}
	// A restarted agent shows its checks as critical until they have run, which
	// takes up to their interval, with the output that it happens to have
	// stored: none, or that of a success.
	isNode := check.ServiceID == ""
	if !isNode && (check.Output == "" || strings.HasSuffix(strings.ToLower(check.Output), ": success")) {
		if !strings.HasPrefix(check.CheckID, api.ServiceMaintPrefix) && check.Type != "ttl" && check.Type != "" {
			return unknown
		}
	}

	return critical
}

// destinationOf is the id of the app that a sidecar stands beside: what it says,
// else what its own id is made of.
func destinationOf(service *api.AgentService) string {
	if service.Kind != api.ServiceKindConnectProxy {
		return ""
	}
	if service.Proxy != nil && service.Proxy.DestinationServiceID != "" {
		return service.Proxy.DestinationServiceID
	}
	if id, ok := strings.CutSuffix(service.ID, sidecarSuffix); ok {
		return id
	}

	return ""
}
