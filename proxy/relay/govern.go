package relay

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/faultinject"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// governed is what the policies say of an RPC, and what they have of it. It is guarded
// by RPC.mu.
type governed struct {
	set       *policy.Set    // those in force when the RPC came
	looked    policy.RPC     // what the policies looked at
	addressed string         // the service that the RPC is addressed to; valid until it is sent
	method    *policy.Method // what holds for that service
	decision  policy.Decision
	decided   bool // it is made, once

	home     *upstream.Cluster // where the RPC was to go before it failed over
	failover []policy.Target   // where it goes next when nobody is where it goes now
	awaiting bool              // the first of them is looked up

	fault   faultinject.Fault
	delayed bool // by it
	delay   *time.Timer

	circuit *breaker.Circuit // nil: none
	place   breaker.Place
	pending bool // it waits for its place
	waking  bool // it is being told that the wait is over
	// limited says that a limiter refused the RPC, ours or another sidecar's, so that
	// its status says nothing about the destination.
	limited bool
	sentAt  time.Duration // when it was first sent, since RPC.start
	breaker *breaker.Policy

	shadow *shadow
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
	decision := policy.Decision{Service: found.Service}
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
	r.follow(b, set, found, decision, said)
}

// follow goes where it was decided that the RPC goes. Where that has to be looked up
// it is called again then: what was left to chance is not drawn twice. of is what is
// said of the service that was found. r.mu is held.
func (r *RPC) follow(b *h2.Batch, set *policy.Set, found Found, decision policy.Decision, of said) {
	if rule := decision.Rule; rule != nil {
		found.Route = rule.Label
	}
	service := found.Service
	if decision.Service != service {
		of = r.said(set, decision.Service)
	}
	if decision.Service != service || found.Cluster == nil && decision.Service != "" {
		service = decision.Service
		route := found.Route
		found = r.p.cfg.Router.Service(service)
		found.Route = route
	} else {
		service = "" // it is found by what the caller wrote
	}
	if found.Cluster == nil && !found.Wait {
		if stands, to, rest := r.standIn(decision.Service, of.service.Failover()); stands.Cluster != nil {
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
}

// said returns what the policies say of a service. r.mu is held.
func (r *RPC) said(set *policy.Set, name string) said {
	service := set.Service(name)
	if r.p.cfg.Side == telemetry.Inbound {
		return said{service, service.Inbound(r.path)}
	}
	return said{service, service.Outbound(r.path)}
}

// look makes ready what policies look at. r.mu is held.
func (r *RPC) look(method *policy.Method) {
	r.police().method = method
	r.pol.looked = policy.RPC{
		Path: r.path, Authority: r.authority, Caller: r.p.cfg.Caller, Fields: r.block.Fields, Random: r.p.cfg.Random,
	}
	if r.pol.looked.Caller == "" {
		r.pol.looked.Peer = r.down.Conn().PeerHost()
	}
}

// prepare takes what the policies say of the service where the RPC goes. r.mu is held.
func (r *RPC) prepare(found Found, of said) {
	service, method := of.service, of.method
	if service == nil {
		return
	}
	key, failover := service.HashKey(), service.Failover()
	if r.p.cfg.Side == telemetry.Inbound {
		key, failover = nil, nil // there is one app
	}
	breaks := method != nil && method.Breaker.Restricts()
	if key == nil && len(failover) == 0 && !breaks && r.pol == nil {
		return
	}
	if r.pol == nil {
		r.look(nil)
	}
	pol := r.pol
	pol.failover = failover
	r.choice.Subset = pol.decision.Subset
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

// obey does what the policies say before the RPC departs. r.mu is held.
func (r *RPC) obey(b *h2.Batch) {
	if m := r.pol.method; m != nil {
		if !r.setTimes(b, m) {
			return
		}
		r.pol.retry, r.pol.hedging = m.Retry, m.Hedging
		if m.Fault != nil && r.faulted(b, m) {
			return
		}
	}
	r.obeyLimits(b)
}

// setTimes gives the RPC the deadline of its policies. It is false where that has
// passed while the destination was looked up. r.mu is held.
func (r *RPC) setTimes(b *h2.Batch, m *policy.Method) bool {
	if t := m.Timeout; t != nil {
		r.pol.timeoutPolicy, r.pol.attemptTimeout, r.pol.idleTimeout, r.pol.maxAge = t.Policy, t.PerAttempt, t.Idle, t.MaxAge
	}
	standard, most := m.Bounds(r.rule(), r.p.cfg.DefaultTimeout, r.p.cfg.MaxTimeout)
	if standard == r.p.cfg.DefaultTimeout && most == r.p.cfg.MaxTimeout {
		return true
	}
	timeout, capped := policy.Deadline(standard, most, r.askedTimeout())
	r.capped = capped
	if timeout == 0 || timeout == r.deadline {
		return true
	}
	r.deadline = timeout
	r.timer.set(b.Now().Sub(r.p.made), r.start.Sub(r.p.made)+timeout)
	if r.expired(b) {
		r.failDeadline(b)
		return false
	}
	return true
}

// askedTimeout is the deadline that the caller asked for, 0 for none. r.mu is held.
func (r *RPC) askedTimeout() time.Duration {
	if r.timeoutAt < 0 {
		return 0
	}
	d, _ := wire.ParseTimeout(r.block.Fields[r.timeoutAt].Value) // it was read once
	return min(max(d, 1), maxTimeout)
}

// faulted makes the RPC fail or wait, where a fault policy says so: then it is true.
// r.mu is held.
func (r *RPC) faulted(b *h2.Batch, m *policy.Method) bool {
	pol := r.pol
	fault, ok := m.Fault.Decide(&pol.looked)
	if !ok || !m.Fault.Begin(fault) {
		return false
	}
	if fault.Delay == 0 {
		r.fail(b, fault.Code, wire.FlagFaultInjected, fault.Message)
		m.Fault.End()
		return true
	}
	pol.delayed, pol.fault = true, fault
	life := r.life
	pol.delay = time.AfterFunc(fault.Delay, func() { r.onDelayed(life) })
	return true
}

// onDelayed is called by the timer, perhaps when the RPC is over.
func (r *RPC) onDelayed(life uint32) {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life || r.pol == nil || !r.pol.delayed || r.phase != phaseRouting {
		return
	}
	r.undelay()
	if f := r.pol.fault; f.Abort {
		r.fail(&b, f.Code, wire.FlagFaultInjected, f.Message)
		return
	}
	r.obeyLimits(&b)
}

// undelay ends the wait of a fault. r.mu is held.
func (r *RPC) undelay() {
	if r.pol.delayed {
		r.pol.delayed = false
		r.pol.delay.Stop()
		r.pol.method.Fault.End()
	}
}

// obeyLimits goes on behind a fault: rate limit, changes, breaker. r.mu is held.
func (r *RPC) obeyLimits(b *h2.Batch) {
	pol := r.pol
	if m := pol.method; m != nil && m.RateLimit != nil {
		if reached, ok := m.RateLimit.Take(b.Now(), &pol.looked); !ok {
			r.failLimited(b, reached)
			return
		}
	}
	r.changeRequest()
	if pol.circuit == nil {
		r.send(b)
		return
	}
	r.enter(b)
}

// failLimited tells the caller that a rate limit was reached, and when there is room
// again. r.mu is held.
func (r *RPC) failLimited(b *h2.Batch, reached policy.LimitReached) {
	message := reached.Message()
	r.pol.limited = true
	r.answer(b, codes.ResourceExhausted, wire.FlagRateLimited, message,
		hpack.Field{Name: wire.HeaderRetryPushback, Value: wire.RetryPushback(reached.RetryAfter)},
		hpack.Field{Name: wire.HeaderStatusDetails, Value: wire.RetryInfoDetails(codes.ResourceExhausted, message, reached.RetryAfter)},
	)
}

// changeRequest makes the changes of metadata that the route says. r.mu is held.
func (r *RPC) changeRequest() {
	rule, group := r.pol.decision.Rule, r.pol.decision.Group
	if rule == nil {
		return
	}
	fields := rule.Request.Apply(r.block.Fields)
	if group != nil {
		fields = group.Request.Apply(fields)
	}
	if rule.Authority != "" {
		for i := range fields {
			if fields[i].Name == ":authority" || fields[i].Name == "host" {
				fields[i].Value = rule.Authority
			}
		}
	}
	r.block.Fields = fields
	r.timeoutAt = -1
	for i := range fields {
		if fields[i].Name == wire.HeaderTimeout {
			r.timeoutAt = int32(i)
		}
	}
}

// changeResponse makes the changes of metadata that the route says in the head of an
// answer. r.mu is held.
func (r *RPC) changeResponse(fields []hpack.Field) []hpack.Field {
	if rule := r.rule(); rule != nil {
		return rule.Response.Apply(fields)
	}
	return fields
}

// enter asks the circuit breaker. r.mu is held.
func (r *RPC) enter(b *h2.Batch) {
	pol := r.pol
	switch verdict := pol.circuit.Enter(b.Now(), &pol.place, r, r.life); verdict {
	case breaker.Admitted:
		r.send(b)
	case breaker.Pending:
		pol.pending = true
	default:
		r.failBroken(b, verdict)
	}
}

func (r *RPC) failBroken(b *h2.Batch, verdict breaker.Verdict) {
	r.pol.limited = true
	r.fail(b, codes.Unavailable, wire.FlagOverflow, r.pol.circuit.Refusal(verdict))
}

// OnPlace implements breaker.Waiter: the wait for a place among the RPCs under way is
// over.
func (r *RPC) OnPlace(life uint32, verdict breaker.Verdict) {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life || r.pol == nil || !r.pol.pending || r.phase != phaseRouting {
		return
	}
	r.pol.pending, r.pol.waking = false, true
	if verdict == breaker.Admitted {
		r.send(&b)
	} else {
		r.failBroken(&b, verdict)
	}
	if r.pol != nil {
		r.pol.waking = false
	}
}

// waitsFor says what an RPC waits for that no attempt was made of yet, where that is
// a policy's doing, and with which flag it ends then. r.mu is held.
func (r *RPC) waitsFor() (where string, flag wire.Flag) {
	switch pol := r.pol; {
	case pol == nil:
	case pol.delayed:
		return fmt.Sprintf("while policy %q delayed it", pol.method.Fault.Name), wire.FlagDelayInjected
	case pol.pending:
		return fmt.Sprintf("while it waited for a place among those under way to service %q (max_concurrent of policy %q)", r.dest.Name(), pol.breaker.Name), wire.FlagDeadline
	case pol.awaiting:
		return fmt.Sprintf("while service %q, to which it fails over from service %q, was looked up", pol.failover[0].Service, r.dest.Name()), wire.FlagDeadline
	}
	return "", wire.FlagNone
}

// settle gives back what the policies have of an RPC that ends. r.mu is held.
func (r *RPC) settle(b *h2.Batch, code codes.Code, flag wire.Flag) {
	pol := r.pol
	r.undelay()
	r.mirrorEnds(b)
	if pol.circuit != nil {
		excused := pol.limited || pol.pending || flag == wire.FlagDownstreamDisconnect || flag == wire.FlagDownstreamProtocolError || flag == wire.FlagOverload
		woken := pol.place.Leave(b.Now(), pol.breaker.Judge(code, excused), r.firstByte(b))
		switch {
		case !woken.Any():
		case pol.waking:
			go woken.Tell() // those that wait may be many, and each ends as quickly as this one
		default:
			b.Later(woken.Tell)
		}
	}
	if g := pol.decision.Group; g != nil && g.Counts != nil {
		g.Counts.Ended(code, b.Now().Sub(r.start))
	}
}

// firstByte is how long it took from when the RPC was sent to the answer's first byte,
// or to the end where there was none. r.mu is held.
func (r *RPC) firstByte(b *h2.Batch) time.Duration {
	at := b.Now().Sub(r.start)
	if r.cur != nil && r.cur.headers > 0 {
		at = r.cur.headers
	}
	return max(at-r.pol.sentAt, 0)
}
