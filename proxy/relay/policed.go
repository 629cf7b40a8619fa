package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// policed is what an RPC needs for the policies that hold for it; one for which none
// does has nothing of it. It is guarded by RPC.mu.
type policed struct {
	governed
	retrying
	times
}

// police gives r room for policies. r.mu is held.
func (r *RPC) police() *policed {
	if r.pol == nil {
		if r.spare == nil {
			r.spare = new(policed)
			r.spare.timer.ring = r.onPolicyTimer
		}
		r.pol = r.spare
	}
	return r.pol
}

// beginPolicies is called before the RPC is first sent. r.mu is held.
func (r *RPC) beginPolicies(b *h2.Batch) {
	p, now := r.pol, b.Now()
	switch {
	case p.retry != nil:
		p.limits = p.retry.Limits.For(r.dest.Name(), now)
	case p.hedging != nil:
		p.limits = p.hedging.Limits.For(r.dest.Name(), now)
	}
	if len(r.replay) > r.replayBytes() {
		r.replayable = false // it came while the RPC waited, when nobody knew the bound
	}
	r.mirror(b)
	p.limits.Begin(now)
	p.sentAt = now.Sub(r.start)
	p.movedAt = p.sentAt
	if p.idleTimeout > 0 {
		p.idleAt = p.movedAt + p.idleTimeout
	}
	if p.maxAge > 0 {
		p.ageAt = max(retry.Jitter(p.maxAge, agedJitter, r.p.cfg.Random), 1)
	}
	r.rearm(b)
}

// beganAttempt is told of each attempt. r.mu is held.
func (r *RPC) beganAttempt(b *h2.Batch, a *attempt) {
	if r.hedges() {
		r.tried = append(r.tried, a.inst)
		r.pol.underWay = append(r.pol.underWay, a)
	}
	a.before = uint8(r.pol.extra)
	r.moved(b)
}

// forget lets go of what belongs to one RPC only.
func (p *policed) forget() {
	p.governed = governed{}
	p.retrying.forget()
	p.times.forget()
}

// endPolicies is told how the RPC ended. It returns the reason that counters and log
// get, where there was none. r.mu is held.
func (r *RPC) endPolicies(b *h2.Batch, code codes.Code, flag wire.Flag) wire.Flag {
	r.settle(b, code, flag)
	r.pol.timer.leave(b.Now().Sub(r.p.made))
	return r.endRetrying(code, flag)
}
