package policy

import (
	"slices"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/retry"
)

// entry is one compiled policy. It never changes.
type entry struct {
	source    *configv1.Policy // a copy of our own
	kind      Kind
	inbound   bool
	selectors []selector // of kinds that are about methods: one at least

	// One of these, as the kind says.
	route     *Route
	timeout   *Timeout
	retry     *retry.Policy
	hedging   *retry.Hedging
	breaker   *breaker.Policy
	rateLimit *RateLimit
	fault     *Fault
	access    *access.Written
	split     *splitPolicy
	cluster   clusterParts
}

func (e *entry) name() string    { return e.source.GetName() }
func (e *entry) service() string { return e.source.GetService() }

// compileEntry compiles one policy. What the policy of its name said before, if that
// is not nil, lends what it remembers where the same is said again.
func compileEntry(m *configv1.Policy, before *entry, env *Env) (*entry, []Refusal) {
	p := &problems{policy: m.GetName(), env: env}
	kind, known := kindOf(m)
	if !known {
		p.addf("", "says nothing: write one of route, subsets, timeout, retry, hedging, circuit_breaker, rate_limit, fault, load_balancing, outlier_ejection, health_check, access or split")
		return nil, p.list
	}
	e := &entry{kind: kind, inbound: m.GetInbound() || kind == KindAccess}
	if before != nil && (before.kind != kind || before.service() != m.GetService() || before.inbound != e.inbound) {
		before = nil // it is about something else, and so is what it remembers
	}
	if e.inbound && !kind.mayBeInbound() {
		p.addf("inbound", "does not go with %s, which is about RPCs where they are made: leave it out", kind)
	}
	switch {
	case kind.ofMethods():
		e.selectors = p.compileSelectors("methods", m.GetMethods())
	case kind == KindAccess && len(m.GetMethods()) > 0:
		p.addf("methods", "do not go with access, whose rules have their own: write access.rules[0].methods and so on")
	case len(m.GetMethods()) > 0:
		p.addf("methods", "do not go with %s, which is about the service as a whole: leave them out", kind)
	}
	if m.GetCircuitBreaker().GetPerInstance() != nil && !slices.Contains(e.selectors, everything) {
		p.addf("circuit_breaker.per_instance", "is about an instance whatever the method, but the policy has methods: put it into a policy without")
	}
	e.source = proto.CloneOf(m) // what is compiled keeps parts of it
	if before != nil && sameBody(m, before.source) {
		e.takeOver(before)
	} else {
		e.compileBody(p, before)
	}
	if len(p.list) > 0 {
		return nil, p.list
	}
	return e, nil
}

// sameBody says whether two policies of one name say the same, if perhaps of other
// methods.
func sameBody(a, b *configv1.Policy) bool {
	x, y := a.ProtoReflect(), b.ProtoReflect()
	field := x.WhichOneof(x.Descriptor().Oneofs().ByName("kind"))
	return field != nil && y.Has(field) && proto.Equal(x.Get(field).Message().Interface(), y.Get(field).Message().Interface())
}

// takeOver takes what another says as it is, with all that it remembers.
func (e *entry) takeOver(before *entry) {
	source, selectors := e.source, e.selectors
	*e = *before
	e.source, e.selectors = source, selectors
}

// compileBody compiles what the policy says.
func (e *entry) compileBody(p *problems, before *entry) {
	switch kind := e.source.GetKind().(type) {
	case *configv1.Policy_Route:
		e.route = p.compileRoute(kind.Route, before)
	case *configv1.Policy_Timeout:
		e.timeout = p.compileTimeout(kind.Timeout)
	case *configv1.Policy_Retry:
		e.retry = p.compileRetry(kind.Retry, before)
	case *configv1.Policy_Hedging:
		e.hedging = p.compileHedging(kind.Hedging, before)
	case *configv1.Policy_CircuitBreaker:
		var old *breaker.Policy
		if before != nil {
			old = before.breaker
		}
		e.breaker = p.compileBreaker(kind.CircuitBreaker, e.inbound, old)
		e.cluster.breaker = p.compileInstanceBreaker(kind.CircuitBreaker)
	case *configv1.Policy_RateLimit:
		var old *RateLimit
		if before != nil {
			old = before.rateLimit
		}
		e.rateLimit = p.compileRateLimit(kind.RateLimit, old)
	case *configv1.Policy_Fault:
		e.fault = p.compileFault(kind.Fault)
	case *configv1.Policy_Subsets:
		p.checkSubsetsPolicy(kind.Subsets)
		e.cluster.subsets = compileSubsets(kind.Subsets)
	case *configv1.Policy_LoadBalancing:
		e.cluster.balancing = p.compileBalancing(kind.LoadBalancing)
	case *configv1.Policy_OutlierEjection:
		e.cluster.ejection = p.compileEjection(kind.OutlierEjection)
	case *configv1.Policy_HealthCheck:
		e.cluster.health = p.compileHealth(kind.HealthCheck)
	case *configv1.Policy_Access:
		e.access = p.compileAccess(kind.Access)
	case *configv1.Policy_Split:
		e.split = p.compileSplitPolicy(kind.Split)
	}
}
