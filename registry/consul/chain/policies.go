package chain

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// Result is what a chain comes to.
type Result struct {
	// Policies are in the order of their names, with their defaults filled in. Some may
	// be for other services than the chain's: for those where it leads.
	Policies []*configv1.Policy
	// Refused is what Consul has an Envoy do and Pillion does not, each of it in a line.
	Refused []registry.RefusedPolicy
	// Notes are lines that people may want to read once: of what means nothing for gRPC.
	Notes []string
	// Filters say which instances the subsets have, by service and by subset.
	Filters map[string]map[string]Filter
}

// MetaOfSubset is the key of the instances' meta that the policies find the instances of a
// subset by; whoever watches them sets it to [InSubset]. Consul lets nobody register a key
// with a dot.
func MetaOfSubset(subset string) string { return "consul-subset." + subset }

// InSubset is the value of [MetaOfSubset].
const InSubset = "yes"

// The kinds of policies that are made.
const (
	kindRoute         = "route"
	kindTimeout       = "timeout"
	kindSubsets       = "subsets"
	kindLoadBalancing = "load_balancing"

	kindCircuitBreaker  = "circuit_breaker"
	kindOutlierEjection = "outlier_ejection"
)

// Policies makes policies of the chain of a service. service is the name that it was asked
// for by, "greeter" or "greeter.dc2"; local is the datacentre that is meant by names
// without one, "" for the chain's own. of is what the caller's own service-defaults says,
// nil for nothing.
func (c *Compiled) Policies(service, local string, of *Upstreams) *Result {
	t := &translation{
		chain: c, service: service, local: cmp.Or(local, c.Datacenter),
		result:   &Result{Filters: map[string]map[string]Filter{}},
		clusters: map[string]*cluster{}, reached: map[string]time.Duration{},
	}
	t.tcp = c.Protocol == "tcp"
	if c.Default || c.StartNode == "" {
		t.reached[service] = 0
	} else {
		t.entries()
	}
	said := of.of(c.ServiceName)
	for _, note := range said.notes {
		t.notef("%s", note)
	}
	for _, name := range slices.Sorted(keys(t.reached)) {
		t.limit(name, &said)
		if within := cmp.Or(said.connect, t.reached[name]); within > 0 {
			t.cluster(name).balanced().ConnectTimeout = durationpb.New(max(within, time.Millisecond))
		}
	}
	for _, name := range slices.Sorted(keys(t.clusters)) {
		t.addCluster(name)
	}
	slices.SortFunc(t.result.Policies, func(a, b *configv1.Policy) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return t.result
}

// entries translates what the entries about the service itself come to.
func (t *translation) entries() {
	if t.tcp {
		t.notef("its protocol is tcp there (service-defaults or proxy-defaults), so that its service-router and service-splitter are not in force: write protocol = \"grpc\"")
	}
	t.clustersOf()
	t.start(t.chain.Nodes[t.chain.StartNode])
}

// translation is the state of one [Compiled.Policies].
type translation struct {
	chain          *Compiled
	service, local string
	tcp            bool
	result         *Result
	clusters       map[string]*cluster // by the service's name
	// reached are the services that RPCs may end at, and how long connecting to their
	// instances may take; 0: nobody says.
	reached map[string]time.Duration
}

// start translates the first node: where RPCs to the service go.
func (t *translation) start(n *Node) {
	switch n.Type {
	case typeRouter:
		t.router(n)
	case typeSplitter:
		t.addRoute(t.splitRules(&configv1.RouteRule{Name: "split"}, n, "service-splitter "+strconv.Quote(t.chain.ServiceName)))
	case typeResolver:
		t.resolver(n)
	}
}

// resolver translates a chain that has nothing but a resolver.
func (t *translation) resolver(n *Node) {
	// With TCP, Envoy has no routes, and no timeouts of RPCs.
	timeouts := t.timeouts(n.Resolver.RequestTimeout, 0)
	if t.tcp {
		timeouts = nil
	}
	to, problem := t.destination(n.Resolver.Target)
	if problem == "" && (to.GetService() == "" || to.GetService() == t.service) {
		t.cluster(t.service).byDefault = to.GetSubset()
		if timeouts != nil {
			t.add(t.service, kindTimeout, &configv1.Policy{Kind: &configv1.Policy_Timeout{Timeout: timeouts}})
		}
		return
	}
	rule := &configv1.RouteRule{Name: "redirect", Timeouts: timeouts}
	t.send(rule, to, problem, "service-resolver "+strconv.Quote(t.chain.ServiceName)+": redirect")
	t.addRoute([]*configv1.RouteRule{rule})
}

// send has a rule send its RPCs to a destination, or, where that cannot be reached, answer
// them: they must not go anywhere else.
func (t *translation) send(rule *configv1.RouteRule, to *configv1.Destination, problem, where string) {
	if problem == "" {
		rule.Action = &configv1.RouteRule_To{To: to}
		return
	}
	t.refusef(t.service, kindRoute, "%s: %s: these RPCs end UNAVAILABLE", where, problem)
	t.answer(rule, "UNAVAILABLE", where+": "+problem)
}

// answer has a rule answer its RPCs.
func (t *translation) answer(rule *configv1.RouteRule, code, message string) {
	rule.Action = &configv1.RouteRule_Status{Status: &configv1.FixedStatus{Code: code, Message: cut("Consul's "+message, 1024)}}
	rule.Timeouts, rule.Retry, rule.Request = nil, nil, nil
}

// destination says where a target is, or why it cannot be reached. The service is "" for
// the chain's own.
func (t *translation) destination(name string) (*configv1.Destination, string) {
	target := t.chain.Targets[name]
	if target == nil {
		return nil, fmt.Sprintf("target %.100q is not in the chain", name)
	}
	service, problem := t.reach(target)
	if problem != "" {
		return nil, problem
	}
	to := &configv1.Destination{Subset: target.ServiceSubset}
	if service != t.service {
		to.Service = service
	}
	return to, ""
}

// reach is the name that a target is found by, or why it cannot be reached.
func (t *translation) reach(target *Target) (service, problem string) {
	if problem := nameProblem(target.Service, target.ServiceSubset); problem != "" {
		return "", problem
	}
	what := "service " + strconv.Quote(target.Service)
	switch elsewhere := target.Datacenter != t.chain.Datacenter; {
	case target.Peer != "":
		return "", fmt.Sprintf("%s is of the peer %q, and sidecars call none of other clusters", what, target.Peer)
	case !sameTenant(target.Namespace, t.chain.Namespace):
		return "", fmt.Sprintf("%s is in the namespace %q, and this sidecar looks in one alone", what, target.Namespace)
	case !sameTenant(target.Partition, t.chain.Partition):
		return "", fmt.Sprintf("%s is in the partition %q, and this sidecar looks in one alone", what, target.Partition)
	case elsewhere && target.MeshGateway.Mode != "" && target.MeshGateway.Mode != "none":
		return "", fmt.Sprintf("%s is in datacentre %q behind a mesh gateway (mode %q), and sidecars call across datacentres directly alone", what, target.Datacenter, target.MeshGateway.Mode)
	case target.External:
		return "", what + " is outside of the cluster (ExternalSNI), and sidecars call none there"
	}
	if target.Datacenter == t.local || target.Datacenter == "" {
		return target.Service, ""
	}
	service = target.Service + "." + target.Datacenter
	return service, nameProblem(service, "")
}

func sameTenant(a, b string) bool { return cmp.Or(a, "default") == cmp.Or(b, "default") }

// timeouts are those of RPCs, in so far as Consul says them; nil: it says none. A negative
// one turns off what Envoy has by default, and Pillion has not.
func (t *translation) timeouts(request, idle Duration) *configv1.TimeoutPolicy {
	if request <= 0 && idle <= 0 {
		return nil
	}
	return &configv1.TimeoutPolicy{Max: bounded(request), Idle: bounded(idle)}
}

// bounded is a duration as policies have it; nil for none.
func bounded(d Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(min(max(time.Duration(d), time.Millisecond), 31536000*time.Second))
}

// maxRules is how many rules a route may have.
const maxRules = 10_000

// addRoute adds the route of the chain's service.
func (t *translation) addRoute(rules []*configv1.RouteRule) {
	if len(rules) == 0 {
		return
	}
	if len(rules) > maxRules {
		t.refuseAllf(t.service, kindRoute, "its routes take %d rules, and there may be %d at most: none is in force", len(rules), maxRules)
		return
	}
	t.add(t.service, kindRoute, &configv1.Policy{Kind: &configv1.Policy_Route{Route: &configv1.RoutePolicy{Rules: rules}}})
}

// add adds a policy, with its defaults filled in.
func (t *translation) add(service, kind string, p *configv1.Policy) {
	p.Name, p.Service = policyName(service, kind), service
	if problem := misfit(p); problem != "" {
		t.refuseAllf(service, kind, "entries for service %q: %s: none of this policy is in force", service, problem)
		return
	}
	t.result.Policies = append(t.result.Policies, configyaml.EffectivePolicy(p))
}

// refusef reports a part of a policy that Consul has an Envoy obey, and Pillion does not.
func (t *translation) refusef(service, kind, format string, args ...any) {
	t.refuse(service, kind, true, fmt.Sprintf(format, args...))
}

// refuseAllf reports a policy of which Pillion obeys nothing.
func (t *translation) refuseAllf(service, kind, format string, args ...any) {
	t.refuse(service, kind, false, fmt.Sprintf(format, args...))
}

func (t *translation) refuse(service, kind string, partial bool, problem string) {
	r := registry.RefusedPolicy{Policy: policyName(service, kind), Service: service, Problem: cut("Consul's "+oneLine(problem), 1000), Partial: partial}
	if !slices.Contains(t.result.Refused, r) {
		t.result.Refused = append(t.result.Refused, r)
	}
}

// notef notes what means nothing for gRPC.
func (t *translation) notef(format string, args ...any) {
	note := cut(fmt.Sprintf("service %q in Consul: ", t.service)+oneLine(fmt.Sprintf(format, args...)), 1000)
	if !slices.Contains(t.result.Notes, note) {
		t.result.Notes = append(t.result.Notes, note)
	}
}

// PolicyPrefix begins the names of all policies that are made of chains.
const PolicyPrefix = "consul."

// maxPolicyName is how long a policy's name may be.
const maxPolicyName = 128

// policyName is the name of a policy: "consul.greeter.route".
func policyName(service, kind string) string {
	name := PolicyPrefix + service + "." + kind
	if len(name) <= maxPolicyName {
		return name
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(service))
	sum := strconv.FormatUint(h.Sum64(), 36)
	rest := maxPolicyName - len(PolicyPrefix) - len(sum) - len(kind) - 2
	return PolicyPrefix + service[:rest] + "-" + sum + "." + kind
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func cut(text string, most int) string {
	if len(text) <= most {
		return strings.ToValidUTF8(text, "?")
	}
	return strings.ToValidUTF8(text[:most-3], "") + "…"
}
