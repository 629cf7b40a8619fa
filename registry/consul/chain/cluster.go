package chain

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// cluster is what a chain says of the instances of one service.
type cluster struct {
	byDefault string // the default subset
	subsets   map[string]*configv1.Subset
	balancing *configv1.LoadBalancingPolicy // nil: nothing is said
}

// cluster returns what is said of a service, to be added to.
func (t *translation) cluster(service string) *cluster {
	c := t.clusters[service]
	if c == nil {
		c = &cluster{subsets: map[string]*configv1.Subset{}}
		t.clusters[service] = c
	}
	return c
}

// clustersOf gathers what the resolvers say of the services that they lead to.
func (t *translation) clustersOf() {
	for _, name := range slices.Sorted(keys(t.chain.Nodes)) {
		n := t.chain.Nodes[name]
		if n.Type != typeResolver {
			continue
		}
		target := t.chain.Targets[n.Resolver.Target]
		service, problem := t.reach(target)
		if problem != "" {
			continue // told of where RPCs go there
		}
		t.known(service, target)
		where := "service-resolver " + strconv.Quote(target.Service)
		t.failover(service, target, n.Resolver.Failover, where)
		t.balance(service, n.LoadBalancer, where+": load_balancer")
		if p := target.PrioritizeByLocality; p != nil && p.Mode != "" && p.Mode != "none" {
			t.refusef(service, kindLoadBalancing, "%s: prioritize_by_locality: write load_balancing.locality in a policy of your own: all instances are alike now", where)
		}
	}
	// A subset that says nothing would fail over as the service as a whole does.
	for _, c := range t.clusters {
		if len(c.balancing.GetFailover()) == 0 {
			continue
		}
		for name, s := range c.subsets {
			if len(s.GetFailover()) == 0 {
				s.Failover = []*configv1.Destination{{Subset: name}} // to itself: nowhere else
			}
		}
	}
}

// known notes that RPCs may end at a target, and the subset that it is.
func (t *translation) known(service string, target *Target) {
	within := time.Duration(target.ConnectTimeout)
	if within <= 0 || within == defaultConnectTimeout {
		within = 0
	}
	t.reached[service] = max(t.reached[service], min(within, maxConnectTimeout))
	name := target.ServiceSubset
	if name == "" {
		return
	}
	c := t.cluster(service)
	if c.subsets[name] != nil {
		return
	}
	c.subsets[name] = &configv1.Subset{Meta: map[string]string{MetaOfSubset(name): InSubset}}
	if _, err := target.Subset.Compile(); err != nil {
		t.refusef(service, kindSubsets, "service-resolver %q: subsets[%q].filter: %s: the subset has no instances", target.Service, name, oneLine(err.Error()))
		return
	}
	if t.result.Filters[service] == nil {
		t.result.Filters[service] = map[string]Filter{}
	}
	t.result.Filters[service][name] = target.Subset
}

// failover adds where RPCs to a target go while none of its instances can be used.
func (t *translation) failover(service string, of *Target, f *Failover, where string) {
	if f == nil {
		return
	}
	if f.Policy != nil && f.Policy.Mode != "" && f.Policy.Mode != "sequential" || len(f.Regions) > 0 {
		t.refusef(service, kindLoadBalancing, "%s: failover: its policy is known to Consul Enterprise alone: the targets are taken in their order", where)
	}
	var list []*configv1.Destination
	for _, name := range f.Targets {
		target := t.chain.Targets[name]
		at, problem := t.reach(target)
		if problem != "" {
			t.refusef(service, kindLoadBalancing, "%s: failover: %s: this target is left out", where, problem)
			continue
		}
		t.known(at, target)
		list = append(list, &configv1.Destination{Service: at, Subset: target.ServiceSubset})
	}
	if len(list) > maxFailover {
		t.refusef(service, kindLoadBalancing, "%s: failover: there are %d targets, and RPCs try %d at most: the rest is left out", where, len(list), maxFailover)
		list = list[:maxFailover]
	}
	c := t.cluster(service)
	if of.ServiceSubset != "" {
		c.subsets[of.ServiceSubset].Failover = list
		return
	}
	c.balanced().Failover = list
}

// defaultConnectTimeout is what Consul says where nobody does.
const defaultConnectTimeout = 5 * time.Second

// maxFailover is how many destinations may stand in for one.
const maxFailover = 16

func (c *cluster) balanced() *configv1.LoadBalancingPolicy {
	if c.balancing == nil {
		c.balancing = &configv1.LoadBalancingPolicy{}
	}
	return c.balancing
}

// The bounds of load_balancing.ring_size.
const maxRingSize = 65536

// balance adds how instances are chosen.
func (t *translation) balance(service string, lb *LoadBalancer, where string) {
	if lb == nil || lb.Policy == "" {
		return
	}
	b := &configv1.LoadBalancingPolicy{Policy: lb.Policy}
	switch lb.Policy {
	case "round_robin", "random":
	case "least_request":
		if l := lb.LeastRequestConfig; l != nil && l.ChoiceCount > 2 {
			t.notef("%s: least_request_config.choice_count is %d there; a sidecar draws two", where, l.ChoiceCount)
		}
	case "ring_hash", "maglev":
		if b.Hash = t.hash(service, lb.HashPolicies, where); b.Hash == nil {
			b.Policy = "random" // as with Envoy, which finds nothing to hash
		} else if r := lb.RingHashConfig; r != nil && lb.Policy == "ring_hash" {
			b.RingSize = ringSize(r.MinimumRingSize, r.MaximumRingSize)
		}
	default:
		t.refusef(service, kindLoadBalancing, "%s: policy %q is not known here: the sidecar's own holds", where, lb.Policy)
		return
	}
	into := t.cluster(service).balanced()
	into.Policy, into.Hash, into.RingSize = b.Policy, b.Hash, b.RingSize
}

// ringSize is the size of a ring within these bounds, of which 0 says nothing.
func ringSize(least, most uint64) *uint32 {
	size := least
	if size == 0 {
		size = 1024
	}
	if most > 0 {
		size = min(size, most)
	}
	return new(uint32(min(size, maxRingSize)))
}

// hash is what is hashed; nil: nothing that RPCs have.
func (t *translation) hash(service string, policies []HashPolicy, where string) *configv1.HashKey {
	var key *configv1.HashKey
	for i, p := range policies {
		field := where + ": hash_policies[" + strconv.Itoa(i) + "]"
		one := t.hashKey(p, field)
		switch {
		case one == nil:
		case key == nil:
			key = one
			if p.Terminal {
				t.noteFallback(policies[i+1:], field)
				return key
			}
		default:
			t.refusef(service, kindLoadBalancing, "%s: one thing is hashed at most: the first one of the list alone", field)
		}
	}
	return key
}

func (t *translation) noteFallback(rest []HashPolicy, field string) {
	if len(rest) > 0 {
		t.notef("%s: is terminal there; RPCs without it are hashed at random, not by what comes after it", field)
	}
}

func (t *translation) hashKey(p HashPolicy, field string) *configv1.HashKey {
	switch {
	case p.SourceIP:
		return &configv1.HashKey{From: &configv1.HashKey_Caller{Caller: true}}
	case p.Field == "header" && isKey(lower(p.FieldValue)):
		return &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: lower(p.FieldValue)}}
	case p.Field == "cookie" && isKey(lower(p.FieldValue)):
		if c := p.CookieConfig; c != nil && (c.Session || c.TTL > 0) {
			t.notef("%s: a cookie is made there for callers without one; gRPC clients keep none, and a sidecar makes none", field)
		}
		return &configv1.HashKey{From: &configv1.HashKey_Cookie{Cookie: p.FieldValue}}
	}
	t.notef("%s: no RPC of gRPC has that (%s %q)", field, p.Field, p.FieldValue)
	return nil
}

// addCluster adds the policies of what is said of a service's instances.
func (t *translation) addCluster(service string) {
	c := t.clusters[service]
	if len(c.subsets) > 0 {
		t.add(service, kindSubsets, &configv1.Policy{Kind: &configv1.Policy_Subsets{Subsets: &configv1.SubsetsPolicy{Subsets: c.subsets, Default: c.byDefault}}})
	}
	if c.balancing != nil {
		t.add(service, kindLoadBalancing, &configv1.Policy{Kind: &configv1.Policy_LoadBalancing{LoadBalancing: c.balancing}})
	}
}

func keys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }
