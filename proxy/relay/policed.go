package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// policed is what an RPC needs for the policies that hold for it; one for which none
// does has nothing of it. It is guarded by RPC.mu.
type policed struct {
	// These are kept for the next RPC.

	timer alarm // for all that is to be done later, but the deadline
	// told is the timeout that an instance was told last, and toldText how it is
	// written.
	told     time.Duration
	toldText string

	times
	retrying
	governed
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
	if rule := p.decision.Rule; rule != nil && rule.Mirror != nil {
		r.mirror(b, rule.Mirror)
	}
	p.limits.Begin(now)
	p.sentAt = now.Sub(r.start)
	if p.timed() {
		r.beginTimes()
	}
}

// beganAttempt is told of each attempt. r.mu is held.
func (r *RPC) beganAttempt(a *attempt) {
	if r.hedges() {
		r.tried = append(r.tried, a.inst)
		r.pol.underWay = append(r.pol.underWay, a)
	}
	a.before = uint8(r.pol.extra)
	r.pol.movedAt = a.began
}

// noteData is told of bytes of the request. r.mu is held.
func (r *RPC) noteData(b *h2.Batch, p []byte, end bool) {
	if end {
		r.pol.movedAt = r.asked
	} else {
		r.moved(b)
	}
	if r.pol.shadow != nil {
		r.mirrorData(b, p, end)
	}
}

// forget lets go of what belongs to one RPC only.
func (p *policed) forget() {
	p.governed.forget()
	p.retrying.forget()
	p.times.forget()
}

// endPolicies is told how the RPC ended, and after what time. It returns the reason that
// counters and log get, where there was none. r.mu is held.
func (r *RPC) endPolicies(b *h2.Batch, code codes.Code, flag wire.Flag, took time.Duration) wire.Flag {
	r.settle(b, code, flag, took)
	r.pol.timer.leave(r.begun + took)
	return r.endRetrying(code, flag)
}
