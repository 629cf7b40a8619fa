package relay

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// hedge is what an RPC remembers of which several copies may be under way.
type hedge struct {
	// underWay are the attempts that are, those included that wait for a connection;
	// once the RPC is committed, the one that it is committed to.
	underWay []*attempt
	// at is when the next copy is sent, since RPC.start; 0: nothing is planned.
	at time.Duration
	// stopped: no further copy is sent, and why.
	stopped bool
	why     retry.Reason
	skip    func(*upstream.Instance) bool // hasCopy
}

// hedges says whether several copies of the RPC may be under way now. r.mu is held.
func (r *RPC) hedges() bool {
	return r.pol != nil && r.pol.hedging != nil && r.phase == phaseTrying
}

// left is told that an attempt is no longer under way.
func (h *hedge) left(a *attempt) {
	if i := slices.Index(h.underWay, a); i >= 0 {
		h.underWay = slices.Delete(h.underWay, i, i+1)
	}
}

func (r *RPC) hasCopy(in *upstream.Instance) bool {
	return slices.ContainsFunc(r.pol.underWay, func(a *attempt) bool { return a.inst == in })
}

// pickHedge chooses an instance for a copy: one that was not tried yet, or else one
// that has no copy now (gRFC A6 leaves that open). r.mu is held.
func (r *RPC) pickHedge() (*upstream.Instance, bool) {
	if inst, ok := r.dest.Pick(r.wants(r.skip)); ok {
		return inst, true
	}
	if inst, ok := r.dest.PickRefusing(r.wants(r.skip)); ok {
		return inst, true
	}
	if r.pol.hedge.skip == nil {
		r.pol.hedge.skip = r.hasCopy
	}
	if inst, ok := r.dest.Pick(r.wants(r.pol.hedge.skip)); ok {
		return inst, true
	}
	if len(r.pol.underWay) > 0 {
		return nil, false
	}
	return r.dest.PickConnecting(&r.choice)
}

// tryHedge finds an instance for a copy in the place of one that failed without being
// processed, or for the first. Where there is none, the others go on without it. r.mu
// is held.
func (r *RPC) tryHedge(b *h2.Batch) {
	first := r.pol.extra == 0 && r.tries == 0
	if !r.place(b) {
		if len(r.pol.underWay) == 0 {
			r.failUnplaced(b)
		}
		return
	}
	if first {
		r.sendHedges(b, r.pol.hedging.Delay)
	}
}

// place begins an attempt at an instance that has no copy yet. It is false where none
// can be reached. r.mu is held.
func (r *RPC) place(b *h2.Batch) bool {
	for r.mayTryAnother() {
		inst, ok := r.pickHedge()
		if !ok {
			return false
		}
		if r.attempt(b, inst) {
			return true
		}
	}
	return false
}

// sendHedges sends the next copy after a wait, and where there is none, at once; with
// a policy without delay, all of them. r.mu is held.
func (r *RPC) sendHedges(b *h2.Batch, wait time.Duration) {
	h := &r.pol.hedge
	h.at = 0
	for r.phase == phaseTrying && r.mayHedge() {
		if wait > 0 {
			h.at = b.Now().Sub(r.start) + wait
			r.rearm(b)
			return
		}
		if !r.sendHedge(b) {
			return
		}
		wait = r.pol.hedging.Delay
	}
}

// sendLateHedge sends the copy that was planned for now. Where none was under way,
// because a server had asked to wait, and there can be none, the RPC ends. r.mu is held.
func (r *RPC) sendLateHedge(b *h2.Batch) {
	r.sendHedges(b, 0)
	p := r.pol
	if r.phase != phaseTrying || len(p.underWay) > 0 || p.hedge.at > 0 {
		return
	}
	p.reason = p.hedge.why
	flag := wire.FlagNoHealthyUpstream
	if p.reason.Limited() {
		flag = wire.FlagRetryLimit
	}
	r.fail(b, codes.Unavailable, flag, fmt.Sprintf("service %q: policy %q has no further copy to send (%s) after one that failed and was to be sent again later",
		r.dest.Name(), p.hedging.Name, p.reason))
}

// mayHedge says whether the policy has one more copy. r.mu is held.
func (r *RPC) mayHedge() bool {
	p := r.pol
	switch {
	case p.hedge.stopped:
	case p.extra+1 >= p.hedging.MaxAttempts:
		p.stopHedging(retry.Attempts)
	case !r.replayable:
		p.stopHedging(retry.TooLong)
	case p.limits.Throttled():
		p.stopHedging(retry.Throttled)
	default:
		return true
	}
	return false
}

func (p *policed) stopHedging(why retry.Reason) {
	p.hedge.stopped, p.hedge.at, p.hedge.why = true, 0, why
}

// sendHedge sends one more copy. r.mu is held.
func (r *RPC) sendHedge(b *h2.Batch) bool {
	p := r.pol
	p.tries = r.tries
	if _, ok := r.pickHedge(); !ok {
		p.hedge.why = retry.NoOther // until one of them fails
		return false
	}
	if !p.limits.TryExtra(b.Now()) {
		p.stopHedging(retry.Budget)
		return false
	}
	p.extra++
	p.own = true
	r.counts().Hedges.Add(1)
	if !r.place(b) {
		p.hedge.why = retry.NoOther
		return false
	}
	return true
}

// goesOnWithout decides whether the other copies of an RPC go on where one failed.
// r.mu is held.
func (r *RPC) goesOnWithout(b *h2.Batch, a *attempt, f failed) bool {
	p := r.pol
	if a == nil { // and no copy is under way
		return false
	}
	nonFatal := p.hedging.NonFatal.Has(f.code)
	if p.reason = retry.Status; nonFatal {
		p.reason = retry.Committed
	}
	if r.phase != phaseTrying {
		return false
	}
	pushback, wait := retry.ReadPushback(f.fields)
	if nonFatal || pushback == retry.Stop {
		p.limits.Failure()
	}
	if !nonFatal {
		return false
	}
	a.fail(b, f)
	switch pushback {
	case retry.Stop:
		p.stopHedging(retry.PushedBack)
	case retry.Wait:
		r.sendHedges(b, wait)
	default:
		r.sendHedges(b, 0)
	}
	if n := len(p.underWay); n > 0 {
		r.cur = p.underWay[n-1]
		return true
	}
	if p.at > 0 {
		return true
	}
	r.cur = a
	p.reason = p.hedge.why
	return false
}

// settleOn has the RPC go on with one attempt, whose answer the caller gets: the others
// are cancelled. r.mu is held.
func (r *RPC) settleOn(b *h2.Batch, a *attempt) {
	r.pol.hedge.stopped, r.pol.hedge.at = true, 0
	r.cancelHedges(b, a, h2.Cancel)
	r.cur = a
}

// settleOnOne has an RPC whose request is too long to keep go on with the attempt that
// has taken most of it (gRFC A6). r.mu is held.
func (r *RPC) settleOnOne(b *h2.Batch) {
	if !r.hedges() || len(r.pol.underWay) == 0 {
		return
	}
	best := r.pol.underWay[0]
	for _, a := range r.pol.underWay[1:] {
		if a.open && (!best.open || a.taken > best.taken) {
			best = a
		}
	}
	r.settleOn(b, best)
	r.pol.hedge.why = retry.TooLong
}

// cancelHedges cancels the attempts that are under way but one. r.mu is held.
func (r *RPC) cancelHedges(b *h2.Batch, but *attempt, code h2.ErrCode) {
	if len(r.pol.underWay) == 0 {
		return
	}
	for _, a := range slices.Backward(r.pol.underWay) {
		if a != but {
			a.cancel(b, code) // which takes it out
		}
	}
}

// reaches says whether there is a stream to send the request on. r.mu is held.
func (r *RPC) reaches() bool {
	if !r.hedges() {
		return r.cur != nil && r.cur.open
	}
	return slices.ContainsFunc(r.pol.underWay, func(a *attempt) bool { return a.open })
}

// sendOn sends bytes of the request to all attempts that have a stream. r.mu is held.
func (r *RPC) sendOn(b *h2.Batch, data []byte, end bool) {
	if !r.hedges() {
		r.cur.send(b, data, end)
		return
	}
	for _, a := range r.pol.underWay {
		if a.open {
			a.send(b, data, end)
		}
	}
}
