package relay

import (
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/faultinject"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// governed is what the policies say of an RPC, and what they have of it. It is guarded
// by RPC.mu.
type governed struct {
	// What is looked at as long as the RPC lasts stands together, and before the rest.
	decision policy.Decision
	decided  bool // it is made, once
	pending  bool // it waits for its place
	waking   bool // it is being told that the wait is over
	// limited says that a limiter refused the RPC, ours or another sidecar's, so that
	// its status says nothing about the destination.
	limited bool
	sentAt  time.Duration // when it was first sent, since RPC.start
	shadow  *shadow
	breaker *breaker.Policy
	circuit *breaker.Circuit // nil: none
	place   breaker.Place
	delaying
	elsewhere

	divided

	method    *policy.Method // what holds for the service that the RPC is addressed to
	set       *policy.Set    // those in force when the RPC came
	addressed string         // that service; valid until it is sent
	looked    policy.RPC     // what the policies looked at
}

// elsewhere is where an RPC goes for which there is no instance.
type elsewhere struct {
	home     *upstream.Cluster // where the RPC was to go before it failed over
	failover []policy.Target   // where it goes next when nobody is where it goes now
	awaiting bool              // the first of them is looked up
}

// delaying is what a fault does to an RPC.
type delaying struct {
	delay   *time.Timer
	delayed bool // by fault
	fault   faultinject.Fault
}

// forget lets go of what belongs to one RPC only. Most RPCs have touched little of it.
func (g *governed) forget() {
	g.looked.Forget()
	g.set, g.method, g.addressed = nil, nil, ""
	g.decision, g.decided = policy.Decision{}, false
	if len(g.groups) > 0 {
		g.divided.forget()
	}
	g.circuit, g.breaker = nil, nil // and what place has, has left
	g.pending, g.waking, g.limited, g.sentAt = false, false, false, 0
	if g.home != nil || g.failover != nil || g.awaiting {
		g.elsewhere = elsewhere{}
	}
	if g.delay != nil {
		g.delaying = delaying{}
	}
}

// govern sends an RPC on its way as the policies say. r.mu is held.
func (r *RPC) govern(b *h2.Batch, set *policy.Set, found Found) {
	if found.Service == "" && found.Cluster != nil {
		r.arrive(b, found, "") // the sidecar itself answers
		return
	}
	said := r.said(set, found.Service)
	method := said.method
	if found.Wait && (found.Service == "" || !said.service.Names(found.Service) || !method.Routes()) {
		r.arrive(b, found, "") // who is meant is not known before the registry says
		return
	}
	if found.Wait {
		r.offer(found.Service)
	}
	decision, of := policy.Decision{Service: found.Service}, said
	if method != nil {
		r.look(method)
		r.pol.set, r.pol.addressed = set, found.Service
		if method.Routes() {
			decision = method.Decide(&r.pol.looked, found.Service)
			r.pol.decision, r.pol.decided = decision, true
		}
		if rule := decision.Rule; rule != nil && rule.Status != nil {
			r.route = rule.Label
			r.answer(b, rule.Status.Code, wire.FlagNone, rule.Status.Message)
			return
		}
	}
	if decision.Service != found.Service {
		of = r.said(set, decision.Service)
	}
	if splits := of.splits; splits != nil && decision.Service != "" {
		service := decision.Service
		decision = r.divide(set, splits, found.Service, decision, method)
		if decision.Service != service {
			of = r.said(set, decision.Service)
		}
	}
	r.follow(b, set, found, decision, of)
}

// follow goes where it was decided that the RPC goes. Where that has to be looked up
// it is called again then: what was left to chance is not drawn twice. of is what is
// said of the service where it goes. r.mu is held.
func (r *RPC) follow(b *h2.Batch, set *policy.Set, found Found, decision policy.Decision, of said) {
	if rule := decision.Rule; rule != nil {
		found.Route = rule.Label
	}
	service := found.Service
	if decision.Service != service || found.Cluster == nil && decision.Service != "" {
		service = decision.Service
		route := found.Route
		found = r.p.cfg.Router.Service(service)
		found.Route = route
	} else {
		service = "" // it is found by what the caller wrote
	}
	if found.Cluster == nil && !found.Wait {
		if stands, to, rest := r.standIn(decision.Service, of.service.Failover(decision.Subset)); stands.Cluster != nil {
			stands.Route = found.Route
			r.prepare(stands, r.said(set, to.Service))
			r.choice.Subset, r.police().failover = to.Subset, rest
			r.arrive(b, stands, "")
			return
		} else if stands.Wait {
			r.arrive(b, stands, to.Service)
			return
		}
	}
	if found.Cluster != nil {
		r.prepare(found, of)
	}
	r.arrive(b, found, service)
}

// said is what policies say of a service, and of the RPC's method there.
type said struct {
	service *policy.Service
	method  *policy.Method
	splits  *policy.Splits // nil: there are none
}

// said returns what the policies say of a service. r.mu is held.
func (r *RPC) said(set *policy.Set, name string) said {
	service := set.Service(name)
	if r.p.cfg.Side == telemetry.Inbound {
		return said{service, service.Inbound(r.path), nil}
	}
	return said{service, service.Outbound(r.path), service.Splits(r.path)}
}

// look makes ready what policies look at. r.mu is held.
func (r *RPC) look(method *policy.Method) {
	r.police().method = method
	l := &r.pol.looked
	l.Path, l.Authority, l.Fields = r.path, r.authority, r.block.Fields
	l.Caller, l.Random = r.p.cfg.Caller, r.p.cfg.Random
	if c := r.caller(); c != nil {
		l.Caller = c.name
	}
	if l.Caller == "" {
		l.Peer = r.down.Conn().PeerHost()
	}
	if method.Looks() {
		l.Mark()
	}
}

// prepare takes what the policies say of the service where the RPC goes. r.mu is held.
func (r *RPC) prepare(found Found, of said) {
	service, method := of.service, of.method
	if r.pol != nil {
		r.choice.Subset = r.pol.decision.Subset
	}
	if service == nil {
		return
	}
	key, failsOver := service.HashKey(), service.FailsOver()
	if r.p.cfg.Side == telemetry.Inbound {
		key, failsOver = nil, false // there is one app
	}
	breaks := method != nil && method.Breaker.Restricts()
	if key == nil && !failsOver && !breaks && r.pol == nil {
		return
	}
	if r.pol == nil {
		r.look(nil)
	}
	pol := r.pol
	if failsOver || pol.failover != nil {
		pol.failover = nil
		if failsOver {
			pol.failover = service.Failover(pol.decision.Subset)
		}
	}
	if key != nil {
		r.choice.Hash, r.choice.Hashed = key.Hash(&pol.looked)
	}
	if breaks {
		pol.breaker = method.Breaker
		pol.circuit = method.Breaker.Circuit(found.Cluster.Name(), r.path)
	}
}

// arrive goes on where an RPC's destination is known, and else waits for that or
// fails. service is what is looked for where it is not what the caller named. r.mu
// is held.
func (r *RPC) arrive(b *h2.Batch, found Found, service string) {
	router := r.p.cfg.Router
	switch {
	case found.Cluster != nil:
		r.dest, r.route = found.Cluster, found.Route
		if r.pol != nil {
			r.obey(b)
			return
		}
		r.send(b)
	case found.Wait:
		// What is kept longer than this life must not live in its memory.
		if !router.Await(strings.Clone(service), strings.Clone(r.authority), strings.Clone(r.path), r, r.life) {
			r.fail(b, codes.ResourceExhausted, wire.FlagOverload, "too many RPCs wait for their destination to be looked up")
		}
	default:
		code, flag, message := router.Explain(service, r.authority, r.path)
		r.fail(b, code, flag, r.ruleLabel()+message)
	}
}

// rule is the route's rule that the RPC is under, nil for none. r.mu is held.
func (r *RPC) rule() *policy.Rule {
	if r.pol == nil {
		return nil
	}
	return r.pol.decision.Rule
}

// ruleLabel is how a message begins that names that rule. r.mu is held.
func (r *RPC) ruleLabel() string {
	if rule := r.rule(); rule != nil {
		return "route " + rule.Label + ": "
	}
	return ""
}
