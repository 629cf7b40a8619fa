package relay

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// obey does what the policies say before the RPC departs. r.mu is held.
func (r *RPC) obey(b *h2.Batch) {
	if m := r.pol.method; m != nil {
		if !r.setTimes(b, m) {
			return
		}
		r.pol.retry, r.pol.hedging = m.Again(r.rule())
		if m.Fault != nil && r.faulted(b, m) {
			return
		}
	}
	r.obeyLimits(b)
}

// setTimes gives the RPC the deadline of its policies. It is false where that has
// passed while the destination was looked up. r.mu is held.
func (r *RPC) setTimes(b *h2.Batch, m *policy.Method) bool {
	if t := m.Times(r.rule()); t != (policy.Timeout{}) {
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
	r.timer.set(b.Now().Sub(r.p.made), r.begun+timeout)
	if r.expired(b) {
		r.failDeadline(b)
		return false
	}
	return true
}

// askedTimeout is the deadline that the caller asked for, 0 for none. r.mu is held.
func (r *RPC) askedTimeout() time.Duration {
	switch {
	case r.timeoutAt < 0:
		return 0
	case !r.capped:
		return r.deadline // as startDeadline read it
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

// changeRequest makes the changes of metadata that the route and split policies say. r.mu is held.
func (r *RPC) changeRequest() {
	rule := r.pol.decision.Rule
	if rule == nil && len(r.pol.groups) == 0 {
		return
	}
	fields := r.pol.decision.Change(&r.pol.looked, r.pol.groups)
	if rule != nil && rule.Authority != "" {
		for i := range fields {
			if fields[i].Name == ":authority" || fields[i].Name == "host" {
				fields[i].Value = rule.Authority
			}
		}
	}
	r.block.Fields = fields
	if at := r.timeoutAt; at < 0 || int(at) < len(fields) && fields[at].Name == wire.HeaderTimeout {
		return
	}
	r.timeoutAt = int32(slices.IndexFunc(fields, func(f hpack.Field) bool { return f.Name == wire.HeaderTimeout }))
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

// settle gives back what the policies have of an RPC that ends, which took so long. r.mu
// is held.
func (r *RPC) settle(b *h2.Batch, code codes.Code, flag wire.Flag, took time.Duration) {
	pol := r.pol
	if pol.delayed {
		r.undelay()
	}
	if pol.shadow != nil {
		r.mirrorEnds(b)
	}
	if pol.circuit != nil {
		woken := pol.place.Leave(b.Now(), pol.breaker.Judge(code, r.excused(flag)), r.firstByte(took))
		switch {
		case !woken.Any():
		case pol.waking:
			go woken.Tell() // those that wait may be many, and each ends as quickly as this one
		default:
			b.Later(woken.Tell)
		}
	}
	if g := pol.decision.Group; g != nil && g.Counts != nil {
		g.Counts.Ended(code, took)
	}
	if len(pol.groups) > 0 {
		pol.tell(code, r.excused(flag), took)
	}
}

// firstByte is how long it took from when the RPC was sent to the answer's first byte,
// or to the end, after so long a time, where there was none. r.mu is held.
func (r *RPC) firstByte(took time.Duration) time.Duration {
	at := took
	if r.cur != nil && r.cur.headers > 0 {
		at = r.cur.headers
	}
	return max(at-r.pol.sentAt, 0)
}
