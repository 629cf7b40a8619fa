package relay

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// attempt is one try of an RPC at one instance. It is the [h2.Owner] of the
// stream to the instance. Its fields are guarded by the RPC's lock.
type attempt struct {
	rpc    *RPC
	stream h2.Stream
	wait   upstream.Wait

	inst    *upstream.Instance
	turn    upstream.Turn
	began   time.Duration // since RPC.start
	headers time.Duration // of its answer, since RPC.start; 0: there are none
	gen     uint32        // of stream
	waiting bool          // for a connection
	open    bool          // the request goes there, the answer has not ended
	live    bool          // the engine knows stream
	counted bool          // inst counts it as under way
	// queued: it was taken out of a queue, and may still be told that it is its turn.
	queued bool
	// before is how many attempts a policy had asked for before it.
	before uint8
	taken  int // bytes of the request that went on
}

func (a *attempt) init(r *RPC) {
	a.rpc = r
	a.stream.Init(a)
}

// send has the RPC sent for the first time. r.mu is held.
func (r *RPC) send(b *h2.Batch) {
	r.phase = phaseTrying
	if r.pol != nil {
		r.beginPolicies(b)
	}
	r.try(b)
}

// try picks an instance and begins an attempt there; it goes on to others as
// long as that fails at once. r.mu is held.
func (r *RPC) try(b *h2.Batch) {
	if r.hedges() {
		r.tryHedge(b)
		return
	}
	inst, ok := r.pick()
	for ok && r.mayTryAnother() {
		if r.attempt(b, inst) {
			return
		}
		if inst, ok = r.dest.Pick(r.wants(r.skip)); !ok {
			inst, ok = r.dest.PickConnecting(&r.choice)
		}
	}
	r.failUnplaced(b)
}

// pick chooses an instance: one that was not tried yet, if there is one, even
// where its sidecar could not reach its app a moment ago; else one that was. r.mu
// is held.
func (r *RPC) pick() (*upstream.Instance, bool) {
	skip := r.skip
	if len(r.tried) == 0 {
		skip = nil
	}
	if inst, ok := r.dest.Pick(r.wants(skip)); ok {
		return inst, true
	}
	if inst, ok := r.dest.PickRefusing(r.wants(skip)); ok {
		return inst, true
	}
	if skip != nil {
		if inst, ok := r.dest.Pick(r.wants(nil)); ok {
			return inst, true
		}
	}
	return r.dest.PickConnecting(&r.choice)
}

// wants is what the RPC wants of an instance, other than those that skip, which may
// be nil, leaves out. r.mu is held.
func (r *RPC) wants(skip func(*upstream.Instance) bool) *upstream.Choice {
	r.choice.Skip = skip
	return &r.choice
}

func (r *RPC) wasTried(in *upstream.Instance) bool { return slices.Contains(r.tried, in) }

// attempt begins an attempt at an instance. It is false where that failed at
// once. r.mu is held.
func (r *RPC) attempt(b *h2.Batch, inst *upstream.Instance) bool {
	a := &r.first
	if a.live || a.waiting || a.queued {
		a = new(attempt) // the first's stream or place is not let go of yet
		a.init(r)
	}
	if r.tries > 0 && !r.isPolicys() {
		r.counts().TransparentRetries.Add(1)
	}
	r.tries++
	r.counts().Attempts.Add(1)
	a.inst, a.began, a.headers, a.taken = inst, b.Now().Sub(r.start), 0, 0
	r.cur = a
	a.counted = true
	a.turn = inst.Begin(b.Now())
	if r.pol != nil {
		r.beganAttempt(a)
	}
	ok := a.start(b)
	if per := r.perAttempt(); ok && per > 0 {
		r.wakeAt(a.began, a.began+per)
	}
	return ok
}

// start opens the attempt's stream, or queues for a connection. It is false
// where that is in vain. r.mu is held.
func (a *attempt) start(b *h2.Batch) bool {
	r := a.rpc
	a.wait.Prepare(a, r.life)
	r.tellTimeout(b)
	if r.pol != nil {
		r.tellAttempts(a)
	}
	end := r.reqEnd && len(r.replay) == 0
	gen, queued, err := a.inst.Open(b, &a.stream, r.block.Fields, end, &a.wait)
	switch {
	case err != nil:
		r.lastErr = err
		r.tried = append(r.tried, a.inst)
		a.leave(b)
		return false
	case queued:
		a.waiting = true
		return true
	}
	a.gen, a.open, a.live = gen, true, true
	r.live++
	r.sent++
	if len(r.replay) > 0 {
		a.send(b, r.replay, r.reqEnd)
		if !r.replayable {
			r.forgetRequest()
		}
	}
	return true
}

// send sends bytes of the request, and gives the caller's window back as far as
// they went on. r.mu is held.
func (a *attempt) send(b *h2.Batch, p []byte, end bool) {
	a.took(b, a.stream.SendData(b, p, end))
}

func (a *attempt) took(b *h2.Batch, n int) {
	r := a.rpc
	a.taken += n
	// What an earlier attempt took was given back then.
	if more := a.taken - r.credited; more > 0 {
		r.credited = a.taken
		if !r.reqEnd {
			r.down.Consume(b, more)
		}
	}
}

// OnConn implements upstream.Caller.
func (a *attempt) OnConn(b *h2.Batch, _ *upstream.Wait, life uint32, err error) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life || !a.waiting || r.phase == phaseDone {
		return
	}
	a.waiting = false
	if err != nil {
		r.lastErr = err
		r.tried = append(r.tried, a.inst)
		a.leave(b)
		r.try(b)
		return
	}
	if !a.start(b) {
		r.try(b)
	}
}

// cancel ends an attempt that is under way: the instance is told code. r.mu is
// held.
func (a *attempt) cancel(b *h2.Batch, code h2.ErrCode) {
	switch {
	case a.waiting:
		a.inst.Leave(&a.wait)
		a.waiting, a.queued = false, true
	case a.open:
		a.stream.Reset(b, code)
	}
	a.leave(b)
}

// leave ends the attempt; where nothing was said of how, that is not the
// instance's doing. r.mu is held.
func (a *attempt) leave(b *h2.Batch) {
	if a.counted {
		a.observe(b, &upstream.Outcome{Code: codes.Canceled, Excused: true})
	}
	a.open = false
	if pol := a.rpc.pol; pol != nil && len(pol.underWay) > 0 {
		pol.left(a)
	}
}

// judge tells the instance how the attempt ended. r.mu is held.
func (a *attempt) judge(b *h2.Batch, code codes.Code, trailers []hpack.Field) {
	if !a.counted {
		return
	}
	excused := false
	if code != codes.OK {
		switch flagOf(trailers) {
		case wire.FlagOverload, wire.FlagRateLimited, wire.FlagOverflow, wire.FlagAccessDenied:
			excused = true // the sidecar beside it did not let the RPC through
		}
	}
	if pol := a.rpc.pol; pol != nil {
		pol.limited = excused // unless another attempt says otherwise
	}
	a.observe(b, &upstream.Outcome{Code: code, Excused: excused, Trailers: trailers})
}

func (a *attempt) observe(b *h2.Batch, o *upstream.Outcome) {
	a.counted = false
	a.inst.End()
	now := b.Now()
	o.Turn = a.turn
	o.Total = now.Sub(a.rpc.start) - a.began
	if o.FirstByte = o.Total; a.headers > 0 {
		o.FirstByte = a.headers - a.began
	}
	a.inst.Observe(now, o)
}

// cancelAttempts ends all attempts that are under way: the instances are told code.
// r.mu is held.
func (r *RPC) cancelAttempts(b *h2.Batch, code h2.ErrCode) {
	if r.pol != nil {
		r.cancelHedges(b, nil, code)
	}
	if r.cur != nil {
		r.cur.cancel(b, code)
	}
}

// OnTaken implements h2.Owner for the stream to the instance: bytes of the
// request went on.
func (a *attempt) OnTaken(b *h2.Batch, _ *h2.Stream, gen uint32, n int) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen == a.gen && a.open && r.isOpen {
		r.moved(b)
		a.took(b, n)
	}
}

// OnClosed implements h2.Owner for the stream to the instance.
func (a *attempt) OnClosed(_ *h2.Batch, _ *h2.Stream, gen uint32) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen == a.gen && a.live {
		a.live = false
		r.live--
		r.release()
	}
}

// failUnplaced answers an RPC for which no instance could be found. r.mu is
// held.
func (r *RPC) failUnplaced(b *h2.Batch) {
	if r.failOver(b) {
		return
	}
	if r.again(b, nil, failed{code: codes.Unavailable, connect: true}) {
		return
	}
	name := r.dest.Name()
	switch {
	case errors.Is(r.lastErr, upstream.ErrTooManyWaiting):
		r.fail(b, codes.Unavailable, wire.FlagOverload, fmt.Sprintf("service %q: %v", name, r.lastErr))
	case r.lastErr != nil:
		r.fail(b, codes.Unavailable, wire.FlagUpstreamConnectFailure,
			fmt.Sprintf("service %q: no instance could be reached (%d tried): %v", name, r.tries, r.lastErr))
	case r.dest.Size() == 0:
		r.fail(b, codes.Unavailable, wire.FlagNoHealthyUpstream,
			fmt.Sprintf("service %q has no healthy instance in the registry", name))
	case r.choice.Subset != "":
		r.fail(b, codes.Unavailable, wire.FlagNoHealthyUpstream,
			fmt.Sprintf("service %q: %sno instance of subset %q can be used", name, r.ruleLabel(), r.choice.Subset))
	default:
		r.fail(b, codes.Unavailable, wire.FlagNoHealthyUpstream,
			fmt.Sprintf("service %q: none of the %d instances can be used: %v", name, r.dest.Size(), r.dest.LastError()))
	}
}
