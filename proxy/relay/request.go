package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// OnHeaders implements h2.Owner for the caller's stream: a new request, or its
// trailers, of which gRPC has none: they only end it.
func (r *RPC) OnHeaders(b *h2.Batch, _ *h2.Stream, gen uint32, h *h2.Head, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.Kind == h2.HeadRequest {
		r.begin(b, gen, h, end)
		if r.over == gen {
			r.closed(b)
			return
		}
		r.accept(b, h)
		return
	}
	if gen == r.downGen && r.isOpen {
		r.requestData(b, nil, true)
	}
}

// accept looks at the request and sends it on its way.
func (r *RPC) accept(b *h2.Batch, h *h2.Head) {
	gate, own := r.p.cfg.Gate, r.p.cfg.Own
	if r.own = own.answers(r.path); r.own {
		gate = own.Gate
	}
	verdict := gate.Enter(&r.pass, r.start, r.path, r.stage())
	if verdict != admission.Admitted && verdict != admission.Early {
		r.shed(b, h, verdict)
		return
	}
	if status := r.readHeaders(h); status != 0 {
		r.refuse(b, status)
		return
	}
	if !r.reserveFields() {
		r.fail(b, codes.ResourceExhausted, wire.FlagOverload, tooManyFields)
		return
	}
	if !r.method.Other() {
		r.count()
	}
	if r.p.cfg.Access != nil && !r.own && !r.mayCall(b) {
		return
	}
	if err := r.startDeadline(); err != nil {
		r.fail(b, codes.Internal, wire.FlagDownstreamProtocolError, err.Error())
		return
	}
	if verdict == admission.Early {
		r.hold()
		return
	}
	r.findDestination(b)
}

// readHeaders takes what it needs from the request's headers. It returns the
// HTTP status to refuse a request with that is no gRPC, else 0.
func (r *RPC) readHeaders(h *h2.Head) (refusal int16) {
	if h.TooLarge {
		return 431
	}
	isGRPC, claimed := false, 0
	first := len(r.block.Fields) - len(h.Regular)
	for i := range h.Regular {
		switch f := &h.Regular[i]; f.Name {
		case wire.HeaderContentType:
			isGRPC = wire.IsGRPC(f.Value)
		case wire.HeaderTimeout:
			if r.timeoutAt == noTimeout {
				r.timeoutAt = int32(first + i)
			} else {
				r.timeoutAt = twoTimeouts
			}
		case wire.HeaderPeer, wire.HeaderForwardedClientCert:
			claimed++
		}
	}
	switch {
	case !isGRPC:
		return 415
	case h.Method != "POST":
		return 405
	}
	if r.p.cfg.Side == telemetry.Inbound {
		r.introduce(claimed)
	}
	return 0
}

// findDestination looks up where the RPC goes, and goes on there. r.mu is held.
func (r *RPC) findDestination(b *h2.Batch) {
	if r.own {
		r.toOwn(b)
		return
	}
	router := r.p.cfg.Router
	set := router.Policies()
	found := router.Find(set, r.authority, r.path)
	if !found.Wait {
		r.offer(found.Service)
	}
	if set != nil {
		r.govern(b, set, found)
		return
	}
	r.arrive(b, found, "")
}

// OnRoute implements Waiter.
func (r *RPC) OnRoute(life uint32) {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if life == r.life && r.phase == phaseRouting {
		r.routed(&b)
	}
}

// OnData implements h2.Owner for the caller's stream.
func (r *RPC) OnData(b *h2.Batch, _ *h2.Stream, gen uint32, p []byte, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen == r.downGen && r.isOpen {
		r.requestData(b, p, end)
	}
}

// requestData sends bytes of the request on, or keeps them as long as there is
// nowhere to send them. r.mu is held.
func (r *RPC) requestData(b *h2.Batch, p []byte, end bool) {
	if r.reqEnd = end; end {
		r.asked = b.Now().Sub(r.start)
	}
	switch r.phase {
	case phaseDone:
		return
	case phaseRefusing:
		r.down.Consume(b, len(p))
		if end {
			r.sendRefusal(b)
		}
		return
	}
	r.reqBytes += uint64(len(p))
	if n := r.req.Feed(p); n > 0 {
		r.reqMsgs += uint64(n)
		if r.counted {
			r.countRequest(n)
		}
	}
	if r.pol != nil {
		r.noteData(b, p, end)
	}
	held, open := r.early, r.reaches()
	if !r.keep(b, p, open) {
		r.fail(b, codes.ResourceExhausted, wire.FlagOverload, "the sidecar keeps too many requests in memory")
		return
	}
	if !r.mayGoOn(b) || held { // in which case it was sent with the rest
		return
	}
	if open {
		r.sendOn(b, p, end)
	}
}

// keep stores bytes of the request for another attempt, and gives that up where
// they are too many: then bytes are stored only as long as there is no stream to
// send them on, which the stream's window bounds. It is false where the process
// keeps too much. r.mu is held.
func (r *RPC) keep(b *h2.Batch, p []byte, open bool) bool {
	if r.replayable && len(r.replay)+len(p) > r.replayBytes() {
		r.settleOnOne(b)
		r.replayable = false
		if open {
			r.forgetRequest()
		}
	}
	if !r.replayable && open {
		return true
	}
	if over := len(r.replay) + len(p) - r.uncounted() - int(r.reserved); over > 0 {
		if !r.reserve(over) {
			if open { // it goes on, with no other attempt
				r.settleOnOne(b)
				r.forgetRequest()
			}
			return open
		}
	}
	r.replay = appendReplay(r.replay, p)
	return true
}

// reserve takes n bytes of the budget, of which all RPCs to one destination may have
// a share: those to instances that never answer must leave something to others. r.mu
// is held.
func (r *RPC) reserve(n int) bool {
	if r.dest == nil {
		if !r.p.cfg.Budget.Take(n) {
			return false
		}
	} else {
		if !r.p.cfg.Budget.TakeShare(r.dest.Kept.Load(), n) {
			return false
		}
		r.dest.Kept.Add(int64(n))
		r.shared += int32(n)
	}
	r.reserved += int32(n)
	return true
}

// forgetRequest gives up what was kept of the request: there will be no other
// attempt. r.mu is held.
func (r *RPC) forgetRequest() {
	r.replayable = false
	r.replay = r.replay[:0]
	if r.reserved > 0 {
		r.p.cfg.Budget.Release(int(r.reserved))
		if r.shared > 0 {
			r.dest.Kept.Add(-int64(r.shared))
		}
		r.reserved, r.shared = 0, 0
		if r.phase != phaseDone || cap(r.replay) > maxKeptReplay {
			freeReplay(r.replay)
			r.replay = nil // the next RPC may be long in coming
		}
	}
}

// OnReset implements h2.Owner for the caller's stream: it cancelled, or its
// connection ended.
func (r *RPC) OnReset(b *h2.Batch, _ *h2.Stream, gen uint32, reset h2.Reset) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != r.downGen || r.phase == phaseDone {
		return
	}
	code, flag, message := codes.Canceled, wire.FlagDownstreamDisconnect, "cancelled by the caller"
	upCode := h2.Cancel
	switch reset.Cause {
	case h2.CauseMalformed:
		code, flag, message = codes.Internal, wire.FlagDownstreamProtocolError, reset.Err.Error()
	case h2.CauseOverBudget:
		code, flag, message = codes.ResourceExhausted, wire.FlagOverload, "the sidecar keeps too many answers in memory"
	case h2.CauseConn:
		message = connEnded
	default:
		if reset.Code != h2.NoError {
			upCode = reset.Code
		}
		if r.givenUp(b) {
			code, flag = codes.DeadlineExceeded, wire.FlagDeadline
			if r.cur != nil {
				r.judgeLate(b)
			}
		}
	}
	r.cancelAttempts(b, upCode) // the instance learns the caller's own code
	r.end(b, code, flag, message)
}

// OnTaken implements h2.Owner for the caller's stream: bytes of the answer went
// on, so that the instance may send more.
func (r *RPC) OnTaken(b *h2.Batch, _ *h2.Stream, gen uint32, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen == r.downGen && r.isOpen && r.cur != nil && r.cur.open {
		r.moved(b)
		r.cur.stream.Consume(b, n)
	}
}

// OnClosed implements h2.Owner for the caller's stream.
func (r *RPC) OnClosed(b *h2.Batch, _ *h2.Stream, gen uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen == r.downGen && r.isOpen {
		r.closed(b)
		return
	}
	// It is the stream's next life: its connection has ended while the reader is
	// about to hand the request over.
	r.over = gen
}

// closed ends what is left of an RPC whose stream to the caller is closed. r.mu
// is held.
func (r *RPC) closed(b *h2.Batch) {
	r.isOpen = false
	// A reset that came before the request did was not heard.
	r.end(b, codes.Canceled, wire.FlagDownstreamDisconnect, connEnded)
	r.release()
}

const connEnded = "the caller's connection ended"
