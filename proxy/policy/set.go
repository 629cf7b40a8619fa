package policy

import (
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// Set is all policies that are in force. It never changes. A nil one has none.
type Set struct {
	entries  []*entry // in the order in which they were written
	byName   map[string]*entry
	services map[string]*Service
	few      []named // services, where they are so few that names are compared
	version  string
}

// named is a service and the name by which it is found.
type named struct {
	name    string
	service *Service
}

// fewServices is how many services are compared with a name one by one.
const fewServices = 4

// AllServices is the name by which policies, and [Set.Service], mean all services that
// no policy names.
const AllServices = "*"

// Service returns what is said of a service: by its name, or else of all; nil where
// nothing is.
func (s *Set) Service(name string) *Service {
	if s == nil {
		return nil
	}
	if s.few == nil {
		if v := s.services[name]; v != nil {
			return v
		}
		return s.services[AllServices]
	}
	var all *Service
	for i := range s.few {
		switch n := &s.few[i]; n.name {
		case name:
			return n.service
		case AllServices:
			all = n.service
		}
	}
	return all
}

// settle is called when all services are known.
func (s *Set) settle() {
	if len(s.services) > fewServices {
		return
	}
	s.few = []named{}
	for name, v := range s.services {
		s.few = append(s.few, named{name, v})
	}
}

// Version is a short hash of all that is in force: sidecars that have the same obey the
// same policies, whatever the order in which those were written. "" for a nil set.
func (s *Set) Version() string {
	if s == nil {
		return ""
	}
	return s.version
}

// Len is how many policies are in force.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.entries)
}

// Service is what policies say of one service. It never changes; a nil one says
// nothing.
type Service struct {
	// name is the service's, or AllServices.
	name string
	// entries are the policies for the service by name, and those for all.
	entries           []*entry
	outbound, inbound *table[*Method]
	// splits are the policies of the kind of which all hold; nil: there are none.
	splits *table[*Splits]
	// parts are what policies say of the service as a whole, and kept are subsets that
	// only kept policies name; cluster is made of both.
	parts   clusterParts
	kept    map[string]upstream.Subset
	cluster *upstream.Policy
}

// Names says that policies name the service, and do not mean it among all only.
func (v *Service) Names(service string) bool {
	return v != nil && v.name == service && service != AllServices
}

// Outbound returns what is said of RPCs to the method at a path, where they are made;
// nil where nothing is.
func (v *Service) Outbound(path string) *Method {
	if v == nil {
		return nil
	}
	m, _ := v.outbound.find(path)
	return m
}

// Inbound returns what is said of RPCs to the method at a path, where they arrive; nil
// where nothing is.
func (v *Service) Inbound(path string) *Method {
	if v == nil {
		return nil
	}
	m, _ := v.inbound.find(path)
	return m
}

// Splits returns the split policies for RPCs that are sent to the method at a path; nil:
// there are none.
func (v *Service) Splits(path string) *Splits {
	if v == nil || v.splits == nil {
		return nil
	}
	s, _ := v.splits.find(path)
	return s
}

// HashKey returns what ring_hash and maglev hash of RPCs to the service; nil: nothing.
func (v *Service) HashKey() *HashKey {
	if v == nil || v.parts.balancing == nil {
		return nil
	}
	return v.parts.balancing.hash
}

// Cluster returns what is said of how the service's instances are chosen; nil: nothing
// is. It is the same object for as long as the same is said.
func (v *Service) Cluster() *upstream.Policy {
	if v == nil {
		return nil
	}
	return v.cluster
}

// Failover returns where RPCs to a subset, "" for the default one, go while none of its
// instances can be used, in this order.
func (v *Service) Failover(subset string) []Target {
	if v == nil {
		return nil
	}
	if s := v.parts.subsets; s != nil && s.failover != nil {
		if subset == "" {
			subset = s.byDefault
		}
		if own, says := s.failover[subset]; says {
			return own
		}
	}
	if v.parts.balancing == nil {
		return nil
	}
	return v.parts.balancing.failover
}

// FailsOver says that RPCs to the service, or to a subset of it, have somewhere to go
// while none of the instances can be used.
func (v *Service) FailsOver() bool {
	return len(v.Failover("")) > 0 || v != nil && v.parts.subsets != nil && len(v.parts.subsets.failover) > 0
}

// Method is what policies say of a method: of each kind the most exact. It never
// changes; what is nil is not said.
type Method struct {
	Route     *Route
	Timeout   *Timeout
	Retry     *retry.Policy  // nil where Hedging is not
	Hedging   *retry.Hedging // nil where Retry is not
	Breaker   *breaker.Policy
	RateLimit *RateLimit
	Fault     *Fault

	// lists are the rules of Route that the path finds, where what is said is said of
	// one path; nil: they are looked up.
	lists *pathLists
}

// Decide is the [Route.Decide] of an RPC to the method.
func (m *Method) Decide(rpc *RPC, addressed string) Decision {
	if m.lists != nil {
		return m.Route.decide(rpc, addressed, m.lists, nil)
	}
	return m.Route.Decide(rpc, addressed, nil)
}

// Looks says that what is said depends on metadata, or may.
func (m *Method) Looks() bool {
	return m != nil && (m.Route != nil || m.RateLimit != nil || m.Fault != nil)
}

// Routes says that there is a route.
func (m *Method) Routes() bool { return m != nil && m.Route != nil }

// methodOf gathers what the policies of each slot say.
func methodOf(slots *slots) *Method {
	m := &Method{}
	for _, e := range slots {
		if e == nil {
			continue
		}
		switch e.kind {
		case KindRoute:
			m.Route = e.route
		case KindTimeout:
			m.Timeout = e.timeout
		case KindRetry:
			m.Retry = e.retry
		case KindHedging:
			m.Hedging = e.hedging
		case KindCircuitBreaker:
			m.Breaker = e.breaker
		case KindRateLimit:
			m.RateLimit = e.rateLimit
		case KindFault:
			m.Fault = e.fault
		}
	}
	return m
}
