package relay

import (
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// mayRetry says whether an RPC that provably was not processed may be sent
// again: all of its request is still here, and there is time (gRFC A6,
// transparent retries). r.mu is held.
func (r *RPC) mayRetry(b *h2.Batch) bool {
	sent := int(r.sent)
	if r.pol != nil {
		sent -= r.pol.extra
	}
	return r.replayable && r.phase == phaseTrying && sent < r.p.cfg.Retry.MaxAttempts && !r.expired(b)
}

// retryElsewhere begins another attempt, at another instance if there is one.
// r.mu is held.
func (r *RPC) retryElsewhere(b *h2.Batch, a *attempt) {
	r.tried = append(r.tried, a.inst)
	a.cancel(b, h2.NoError)
	r.try(b)
}

// retrying is what an RPC remembers that a policy has sent again after a failure,
// or before it.
type retrying struct {
	// One of these at most is set, before the RPC is first sent.
	retry   *retry.Policy
	hedging *retry.Hedging

	limits *retry.Allowance // of the destination
	extra  int              // attempts that the policy asked for
	grown  int              // of those, the ones since the wait grew from its beginning
	own    bool             // the next attempt is the policy's
	tries  int32            // RPC.tries before the policy's last attempt
	reason retry.Reason     // why it is not sent again
	// retryAt is when it is sent again, since RPC.start; 0: nothing is planned.
	retryAt time.Duration
	// held are the headers of an answer that the caller has not got yet.
	held *hpack.Block
	// previousAt is where grpc-previous-rpc-attempts is in the request, 0: not looked
	// for, and callers what the caller wrote there.
	previousAt int
	callers    string

	hedge
}

func (p *retrying) forget() {
	if p.held != nil {
		h2.FreeBlock(p.held)
	}
	underWay, skip := p.underWay, p.skip
	clear(underWay)
	*p = retrying{}
	p.underWay, p.skip = underWay[:0], skip
}

// failed is how an attempt failed before the caller saw anything of an answer.
type failed struct {
	code    codes.Code
	fields  []hpack.Field // of the answer; nil: there was none
	connect bool          // no instance could be reached
	reset   bool          // there was no answer, the stream ended
	ours    bool          // the sidecar had to end it, and another would fare no better
	tell    h2.ErrCode    // what the instance is told where its stream is open
}

// fail ends an attempt in whose place comes another, or none. Where it ends before its
// answer does, as one that is no gRPC, the instance is judged by what is known of that.
// r.mu is held.
func (a *attempt) fail(b *h2.Batch, f failed) {
	if a.open {
		a.judge(b, f.code, f.fields)
	}
	a.cancel(b, f.tell)
}

// again decides whether an RPC of which an attempt failed goes on, and sees to it;
// where it does not, the caller gets the failure. a is nil where no instance could
// be found for an attempt. r.mu is held.
func (r *RPC) again(b *h2.Batch, a *attempt, f failed) bool {
	p := r.pol
	switch {
	case p == nil || f.code == codes.OK || f.ours:
		return false
	case p.hedging != nil:
		return r.goesOnWithout(b, a, f)
	case p.retry == nil:
		return false
	}
	var wait time.Duration
	if wait, p.reason = r.waitFor(b, f); p.reason != retry.None {
		return false
	}
	if a != nil {
		r.tried = append(r.tried, a.inst)
		a.fail(b, f)
	}
	h2.FreeBlock(p.held)
	p.held = nil
	p.extra++
	r.counts().Retries.Add(1)
	if wait > 0 {
		p.retryAt = b.Now().Sub(r.start) + wait
		r.rearm(b)
		return true
	}
	r.tryAgain(b)
	return true
}

// tryAgain begins the attempt that again has decided on. r.mu is held.
func (r *RPC) tryAgain(b *h2.Batch) {
	r.pol.retryAt = 0
	r.pol.own, r.pol.tries = true, r.tries
	r.try(b)
}

// waitFor says how long to wait before the RPC is sent again, or why it is not. The
// order is that of gRFC A6's implementations: it matters for what the tokens count.
// r.mu is held.
func (r *RPC) waitFor(b *h2.Batch, f failed) (wait time.Duration, no retry.Reason) {
	p, policy := r.pol, r.pol.retry
	wanted := policy.Codes.Has(f.code) || f.connect && policy.ConnectFailure || f.reset && policy.ResetBeforeHeaders
	switch {
	case wanted && r.phase != phaseTrying:
		return 0, retry.Committed
	case wanted && !r.replayable:
		return 0, retry.TooLong
	case r.phase != phaseTrying || !r.replayable:
		return 0, retry.Status
	}
	pushback, wait := retry.ReadPushback(f.fields)
	switch {
	case pushback == retry.Stop:
		p.limits.Failure()
		return 0, retry.PushedBack
	case !wanted:
		return 0, retry.Status
	}
	p.limits.Failure()
	switch {
	case p.limits.Throttled():
		return 0, retry.Throttled
	case p.extra+1 >= policy.MaxAttempts:
		return 0, retry.Attempts
	}
	if pushback == retry.Wait {
		p.grown = 0
	} else {
		wait = policy.Backoff(p.grown, r.p.cfg.Random)
		p.grown++
	}
	now := b.Now()
	switch {
	case r.deadline > 0 && now.Sub(r.start)+wait >= r.deadline:
		return 0, retry.Deadline
	case !p.limits.TryExtra(now):
		return 0, retry.Budget
	}
	return wait, retry.None
}

// keepsTrying looks at the head of an answer. It is true where the caller does not
// get it: the RPC is sent again, or the head is kept back. code is that of an answer
// that is a head alone. r.mu is held.
func (r *RPC) keepsTrying(b *h2.Batch, a *attempt, h *h2.Head, code codes.Code, end bool) bool {
	p := r.pol
	p.movedAt = a.headers
	if code == codes.OK && h.Status == 200 && p.hedging == nil && (p.retry == nil || !p.retry.HoldHeaders) {
		return false // there is nothing to decide
	}
	f := failed{code: code, fields: h.Regular}
	if !end && h.Status != 200 { // what is no gRPC answer fails by its status alone
		f.code, f.tell = wire.CodeFromHTTP(h.Status), h2.Cancel
	}
	if r.again(b, a, f) {
		return true
	}
	if !end && f.code == codes.OK && r.holds(h) {
		r.pol.held = h.Take()
		r.status = int16(h.Status)
		return true
	}
	r.settleOn(b, a)
	return false
}

// holds says whether an answer's headers are kept back. Those that are larger than
// most are not: the budget does not count them. r.mu is held.
func (r *RPC) holds(h *h2.Head) bool {
	policy := r.pol.retry
	if policy == nil || !policy.HoldHeaders || r.pol.extra+1 >= policy.MaxAttempts || !r.replayable {
		return false
	}
	size := 0
	for _, f := range h.Fields() {
		size += int(f.Size())
	}
	return size <= ordinaryFields
}

// sendHeld gives the caller the headers that were kept back, if any. r.mu is held.
func (r *RPC) sendHeld(b *h2.Batch, a *attempt) {
	held := r.pol.held
	if held == nil {
		return
	}
	r.pol.held = nil
	r.settleOn(b, a)
	r.commit(b, int(r.status), codes.OK)
	held.Fields = r.changeResponse(held.Fields)
	r.down.SendHeaders(b, held.Fields, false)
	h2.FreeBlock(held)
	r.forgetFields()
}

// failedInTrailers says whether an RPC whose answer ended with these trailers is sent
// again; else the caller gets them. r.mu is held.
func (r *RPC) failedInTrailers(b *h2.Batch, a *attempt, code codes.Code, trailers []hpack.Field) bool {
	return code != codes.OK && r.again(b, a, failed{code: code, fields: trailers})
}

// endRetrying is told how the RPC ended. It returns the flag for counters and log.
// r.mu is held.
func (r *RPC) endRetrying(code codes.Code, flag wire.Flag) wire.Flag {
	p := r.pol
	if p.retry == nil && p.hedging == nil {
		return flag
	}
	if code == codes.OK {
		p.limits.Success()
		p.reason = retry.None
		return flag
	}
	if p.reason != retry.None && r.dest != nil {
		r.counts().NotRetried(p.reason)
	}
	if flag == wire.FlagNone && p.reason.Limited() {
		return wire.FlagRetryLimit
	}
	return flag
}

// tellAttempts writes into the request how many attempts there were before this one
// (gRFC A6); those that the caller's own library made count too. r.mu is held.
func (r *RPC) tellAttempts(a *attempt) {
	p := r.pol
	if a.before == 0 && p.previousAt == 0 {
		return
	}
	if p.previousAt == 0 {
		r.findAttempts()
	}
	switch at := p.previousAt; {
	case a.before > 0:
		n, _ := strconv.ParseUint(p.callers, 10, 16) // what cannot be read is none
		r.block.Fields[at].Value = strconv.Itoa(int(n) + int(a.before))
	case p.callers != "": // the first attempt had to wait, and a later one was sent before it
		r.block.Fields[at].Value = p.callers
	default:
		r.block.Fields = slices.Delete(r.block.Fields, at, at+1)
		if int(r.timeoutAt) > at {
			r.timeoutAt--
		}
		p.previousAt = 0
	}
}

// findAttempts finds the field, or makes one. r.mu is held.
func (r *RPC) findAttempts() {
	p := r.pol
	p.previousAt = slices.IndexFunc(r.block.Fields, func(f hpack.Field) bool { return f.Name == wire.HeaderPreviousAttempts })
	if p.previousAt >= 0 {
		p.callers = r.block.Fields[p.previousAt].Value
		return
	}
	p.previousAt = len(r.block.Fields)
	r.block.Fields = append(r.block.Fields, hpack.Field{Name: wire.HeaderPreviousAttempts})
}

// replayBytes is how much of the request is kept. r.mu is held.
func (r *RPC) replayBytes() int {
	switch p := r.pol; {
	case p == nil:
	case p.retry != nil:
		return p.retry.BufferBytes
	case p.hedging != nil:
		return p.hedging.BufferBytes
	}
	return r.p.cfg.Retry.ReplayBytes
}

// mayTryAnother says whether the RPC, or the attempt that a policy asked for, has not
// tried too many instances yet. r.mu is held.
func (r *RPC) mayTryAnother() bool {
	tries := r.tries
	if r.pol != nil {
		tries -= r.pol.tries
	}
	return int(tries) < r.p.cfg.Retry.MaxInstances
}

// isPolicys says, once, that the attempt about to begin is one that a policy asked
// for. r.mu is held.
func (r *RPC) isPolicys() bool {
	if r.pol == nil || !r.pol.own {
		return false
	}
	r.pol.own = false
	return true
}
