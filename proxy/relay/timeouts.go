package relay

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// agedGrace is how long a stream beyond its maximum age is given to come to the end
// of a message.
const agedGrace = 5 * time.Second

// agedJitter is by how much a stream's maximum age differs (gRFC A9).
const agedJitter = 0.1

// times are the timeouts that a policy gives an RPC beside its deadline. All points in
// time are counted since RPC.start.
type times struct {
	// These are set before the RPC is first sent. 0: does not hold.
	timeoutPolicy  string
	attemptTimeout time.Duration
	idleTimeout    time.Duration
	maxAge         time.Duration

	movedAt time.Duration // when something last came or went
	idleAt  time.Duration // when to look at movedAt; 0: never
	ageAt   time.Duration // when it is too old; 0: never, or not drawn yet
	aged    bool          // it is, and ends with the message that is under way
}

func (t *times) forget() { *t = times{} }

// timed says that one of the timeouts holds that count from when the RPC is sent.
func (t *times) timed() bool { return t.idleTimeout > 0 || t.maxAge > 0 }

// beginTimes is called as the RPC is first sent, where it is timed. r.mu is held.
func (r *RPC) beginTimes() {
	p := r.pol
	p.movedAt = p.sentAt
	var next time.Duration
	if p.idleTimeout > 0 {
		p.idleAt = p.movedAt + p.idleTimeout
		next = p.idleAt
	}
	if p.maxAge > 0 { // how much exactly, is drawn when that is near
		if soonest := max(p.maxAge-time.Duration(agedJitter*float64(p.maxAge)), 1); next == 0 || soonest < next {
			next = soonest
		}
	}
	r.wakeAt(p.sentAt, next)
}

// wakeAt has the timer go off then, or before. Both times are since RPC.start. r.mu is
// held.
func (r *RPC) wakeAt(now, at time.Duration) { r.pol.timer.set(r.begun+now, r.begun+at) }

// moved notes that something came or went. r.mu is held.
func (r *RPC) moved(b *h2.Batch) {
	if r.pol != nil && r.pol.idleTimeout > 0 {
		r.pol.movedAt = b.Now().Sub(r.start)
	}
}

// rearm has the timer go off when there is something to do, or before. r.mu is held.
func (r *RPC) rearm(b *h2.Batch) {
	p := r.pol
	if p.maxAge > 0 && p.ageAt == 0 {
		p.ageAt = max(retry.Jitter(p.maxAge, agedJitter, r.p.cfg.Random), 1)
	}
	next := p.retryAt
	for _, at := range [...]time.Duration{p.hedge.at, p.idleAt, p.ageAt, r.attemptDue()} {
		if at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if next > 0 {
		r.wakeAt(b.Now().Sub(r.start), next)
	}
}

// perAttempt is how long an attempt may take; 0: as long as the RPC. r.mu is held.
func (r *RPC) perAttempt() time.Duration {
	if r.pol == nil {
		return 0
	}
	return r.pol.attemptTimeout
}

// attemptDue is when the time of the first of the attempts under way is over; 0:
// never. r.mu is held.
func (r *RPC) attemptDue() time.Duration {
	if a := r.oldest(); a != nil {
		return a.began + r.pol.attemptTimeout
	}
	return 0
}

// oldest returns the first of the attempts that a timeout holds for, nil where there is
// none. r.mu is held.
func (r *RPC) oldest() *attempt {
	if r.pol.attemptTimeout == 0 || r.phase != phaseTrying {
		return nil
	}
	if r.hedges() {
		if len(r.pol.underWay) > 0 {
			return r.pol.underWay[0]
		}
		return nil
	}
	if a := r.cur; a != nil && (a.open || a.waiting) && a.headers == 0 {
		return a
	}
	return nil
}

// onPolicyTimer is called by the timer, perhaps late: for an RPC that is over, or for
// the next one in the same memory.
func (r *RPC) onPolicyTimer() {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare.timer.rang()
	p := r.pol
	if p == nil || !r.isOpen {
		return
	}
	if r.phase != phaseTrying && r.phase != phaseAnswering { // it is set again when it goes on
		return
	}
	if r.expired(&b) { // whose timer is due as well
		return
	}
	now := b.Now().Sub(r.start)
	for a := r.oldest(); a != nil && a.began+p.attemptTimeout <= now; a = r.oldest() {
		r.attemptTimedOut(&b, a)
	}
	if p.retryAt > 0 && p.retryAt <= now {
		r.tryAgain(&b)
	}
	if p.hedge.at > 0 && p.hedge.at <= now {
		r.sendLateHedge(&b)
	}
	if p.ageAt > 0 && p.ageAt <= now && r.phase != phaseDone {
		r.tooOld(&b)
	}
	if p.idleAt > 0 && p.idleAt <= now && r.phase != phaseDone {
		r.lookIdle(&b, now)
	}
	if r.phase != phaseDone {
		r.rearm(&b)
	}
}

// attemptIsOver says that the time has passed that a policy gives the attempt. r.mu is
// held.
func (r *RPC) attemptIsOver(b *h2.Batch, a *attempt) bool {
	per := r.perAttempt()
	return per > 0 && b.Now().Sub(r.start) >= a.began+per
}

// attemptTimedOut ends an attempt that was not answered in time. r.mu is held.
func (r *RPC) attemptTimedOut(b *h2.Batch, a *attempt) {
	what := "had not answered"
	if a.waiting {
		what = "could not be connected to"
	} else {
		a.judge(b, codes.DeadlineExceeded, nil)
	}
	if r.again(b, a, failed{code: codes.DeadlineExceeded, tell: h2.Cancel}) {
		return
	}
	a.cancel(b, h2.Cancel)
	r.fail(b, codes.DeadlineExceeded, wire.FlagUpstreamTimeout, fmt.Sprintf("service %q, instance %s: it %s within the %v that policy %q gives an attempt",
		r.dest.Name(), a.inst, what, r.pol.attemptTimeout, r.pol.timeoutPolicy))
}

// judgeLate tells the instances that the deadline passed while they had the RPC, and
// cancels it there. r.mu is held.
func (r *RPC) judgeLate(b *h2.Batch) {
	if r.pol != nil {
		for _, a := range r.pol.underWay {
			if a.open {
				a.judge(b, codes.DeadlineExceeded, nil)
			}
		}
	}
	if r.cur.open {
		r.cur.judge(b, codes.DeadlineExceeded, nil)
	}
	r.cancelAttempts(b, h2.Cancel)
}

// isStream says that the RPC has begun to be answered, or that its request goes on.
// r.mu is held.
func (r *RPC) isStream() bool {
	return r.phase == phaseAnswering || !r.reqEnd || r.reqMsgs > 1
}

// lookIdle ends an RPC on which nothing came or went for too long. r.mu is held.
func (r *RPC) lookIdle(b *h2.Batch, now time.Duration) {
	p := r.pol
	switch idle := p.movedAt + p.idleTimeout; {
	case !r.isStream() || p.retryAt > 0:
		p.idleAt = now + p.idleTimeout
	case idle > now:
		p.idleAt = idle
	default:
		r.failWith(b, codes.Unavailable, wire.FlagUpstreamTimeout,
			fmt.Sprintf("service %q: nothing came or went for %v, the idle timeout of policy %q", r.dest.Name(), p.idleTimeout, p.timeoutPolicy), h2.Cancel)
	}
}

// tooOld ends a stream that lasts longer than it may: now, where that can be told in
// trailers, or with the message that is under way, if that ends soon. r.mu is held.
func (r *RPC) tooOld(b *h2.Batch) {
	p := r.pol
	if r.phase == phaseAnswering && !r.resp.AtBoundary() && !p.aged {
		p.aged = true
		p.ageAt = b.Now().Sub(r.start) + agedGrace
		return
	}
	r.failWith(b, codes.Unavailable, wire.FlagUpstreamTimeout,
		fmt.Sprintf("service %q: policy %q lets a stream last %v", r.dest.Name(), p.timeoutPolicy, p.maxAge), h2.Cancel)
}

// untilBoundary returns what of these bytes of the answer a stream that is too old may
// still pass on: the rest of the message. r.mu is held.
func (r *RPC) untilBoundary(data []byte, end bool) ([]byte, bool) {
	if n, ends := r.resp.Rest(data); ends {
		return data[:n], false
	}
	return data, end
}

// endAged ends a stream that is too old, if a message has ended. r.mu is held.
func (r *RPC) endAged(b *h2.Batch) bool {
	if !r.resp.AtBoundary() {
		return false
	}
	r.tooOld(b)
	return true
}
