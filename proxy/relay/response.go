package relay

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// OnHeaders implements h2.Owner for the stream to the instance: its response's
// headers or trailers.
func (a *attempt) OnHeaders(b *h2.Batch, _ *h2.Stream, gen uint32, h *h2.Head, end bool) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != a.gen || !a.open || r.phase == phaseDone {
		return
	}
	r.shield(h, end)
	switch h.Kind {
	case h2.HeadInformational:
		if !r.hedges() { // which of them would it be from?
			r.down.SendHeaders(b, h.Fields(), false)
		}
	case h2.HeadResponse:
		r.response(b, a, h, end)
	default:
		code, message := readStatus(h.Regular, int(r.status))
		a.judge(b, code, h.Regular)
		if r.pol != nil {
			if r.failedInTrailers(b, a, code, h.Regular) {
				return
			}
			r.sendHeld(b, a)
		}
		r.takeMeasures(h)
		if r.down.SendHeaders(b, h.Fields(), true) {
			r.answered(b, a, code, message)
		}
	}
}

// isOurs says that a field is Pillion's own, which an app has no say in.
func isOurs(f *hpack.Field) bool { return strings.HasPrefix(f.Name, "pillion-") }

// response handles the head of the instance's answer. r.mu is held.
func (r *RPC) response(b *h2.Batch, a *attempt, h *h2.Head, end bool) {
	code, message := codes.OK, ""
	if end {
		code, message = readStatus(h.Regular, h.Status)
	}
	flag := wire.FlagNone
	if end && code == codes.Unavailable {
		flag = flagOf(h.Regular)
	}
	a.headers = max(b.Now().Sub(r.start), 1)
	switch flag {
	case wire.FlagNoHealthyUpstream, wire.FlagUpstreamConnectFailure:
		// The sidecar could not hand the RPC to its app.
		err := fmt.Errorf("the sidecar at %s: %s", a.inst, message)
		a.inst.Refused(err)
		if r.mayRetry(b) {
			r.lastErr = err
			a.judge(b, code, h.Regular)
			r.retryElsewhere(b, a)
			return
		}
	case wire.FlagOverload:
		// It did not want to. The instance works, so it is not left alone: that
		// would drive all its RPCs to the others, and then back.
		if inst, ok := r.elsewhere(b, a); ok {
			r.lastErr = fmt.Errorf("the sidecar at %s: %s", a.inst, message)
			a.cancel(b, h2.NoError)
			if !r.attempt(b, inst) {
				r.try(b)
			}
			return
		}
	default:
		a.inst.Accepted()
		r.dest.Overload.Accepted(r.overloaded)
	}
	if end {
		a.judge(b, code, h.Regular)
	}
	if r.pol != nil && r.keepsTrying(b, a, h, code, end) {
		return
	}
	r.commit(b, h.Status, code)
	if end {
		r.takeMeasures(h)
	}
	if sent := r.down.SendHeaders(b, r.changeResponse(h.Fields()), end); end {
		if sent { // else it is lost, and OnReset ends the RPC
			r.answered(b, a, code, message)
		}
		return
	}
	r.forgetFields()
}

// commit notes that the caller gets the answer whose head is here: there is no other
// attempt from now on. code is that of an answer that is a head alone. r.mu is held.
func (r *RPC) commit(b *h2.Batch, status int, code codes.Code) {
	r.pass.Answered(b.Now(), r.askedAt())
	r.status = int16(status)
	r.phase = phaseAnswering
	r.forgetRequest()
	if status == 200 && code != codes.Unimplemented {
		r.learn()
	}
}

// flagOf returns what an answer says in pillion-flags. With UNAVAILABLE, that the
// sidecar beside the instance could not or would not hand the RPC to its app.
func flagOf(fields []hpack.Field) wire.Flag {
	for i := range fields {
		if fields[i].Name == wire.HeaderFlags {
			return wire.ParseFlag(fields[i].Value)
		}
	}
	return wire.FlagNone
}

// readStatus reads the RPC's status from trailers, or from headers that are the
// whole answer; where there is none, the HTTP status stands for it.
func readStatus(fields []hpack.Field, status int) (code codes.Code, message string) {
	found := false
	for i := range fields {
		switch f := &fields[i]; f.Name {
		case wire.HeaderStatus:
			code, found = wire.ParseStatus(f.Value), true
		case wire.HeaderMessage:
			message = wire.DecodeMessage(f.Value)
		}
	}
	if !found {
		return wire.CodeFromHTTP(status), "the answer has no grpc-status"
	}
	return code, message
}

// OnData implements h2.Owner for the stream to the instance.
func (a *attempt) OnData(b *h2.Batch, _ *h2.Stream, gen uint32, p []byte, end bool) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != a.gen || !a.open || r.phase == phaseDone {
		return
	}
	if pol := r.pol; pol != nil {
		if pol.held != nil {
			r.sendHeld(b, a)
		}
		r.moved(b)
		if pol.aged {
			p, end = r.untilBoundary(p, end)
		}
	}
	r.respBytes += uint64(len(p))
	if n := r.resp.Feed(p); n > 0 {
		r.respMsgs += uint64(n)
		if r.counted {
			r.countResponse(n)
		}
	}
	taken := r.down.SendData(b, p, end)
	if r.pol != nil && r.pol.aged && r.endAged(b) {
		return
	}
	if end { // an answer without trailers is no gRPC; the caller sees it as it is
		code := wire.CodeFromHTTP(int(r.status))
		a.judge(b, code, nil)
		r.answered(b, a, code, "the answer has no trailers")
		return
	}
	a.stream.Consume(b, taken)
}

// answered ends an RPC whose answer is complete. r.mu is held.
func (r *RPC) answered(b *h2.Batch, a *attempt, code codes.Code, message string) {
	if a.live && (!r.reqEnd || uint64(a.taken) < r.reqBytes) {
		// An early answer: nobody wants the rest of the request. The engine
		// tells the caller so (RFC 9113 section 8.1), and this the instance.
		a.stream.Reset(b, h2.NoError)
	}
	a.leave(b)
	r.end(b, code, wire.FlagNone, message)
}

// OnReset implements h2.Owner for the stream to the instance: it broke off.
func (a *attempt) OnReset(b *h2.Batch, _ *h2.Stream, gen uint32, reset h2.Reset) {
	r := a.rpc
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != a.gen || !a.open || r.phase == phaseDone {
		return
	}
	if r.expired(b) {
		// The instance's clock was a little faster.
		a.judge(b, codes.DeadlineExceeded, nil)
		a.leave(b)
		r.failDeadline(b)
		return
	}
	code, flag, reason := explainReset(reset)
	if reset.Unprocessed && r.phase == phaseTrying && r.mayRetry(b) {
		r.lastErr = fmt.Errorf("%s: %s", a.inst, reason)
		r.retryElsewhere(b, a)
		return
	}
	if r.attemptIsOver(b, a) { // the instance was told that it ends now
		code, flag, reason = codes.DeadlineExceeded, wire.FlagUpstreamTimeout,
			fmt.Sprintf("its answer was not complete within the %v that policy %q gives an attempt", r.pol.attemptTimeout, r.pol.timeoutPolicy)
	}
	ours := reset.Cause == h2.CauseOverBudget
	if !ours {
		a.judge(b, code, nil)
	}
	if r.again(b, a, failed{code: code, reset: a.headers == 0, ours: ours}) {
		return
	}
	a.leave(b)
	if reset.Cause == h2.CauseMalformed {
		reset.Code = h2.InternalError // the caller has broken nothing
	}
	r.failWith(b, code, flag, fmt.Sprintf("service %q, instance %s: %s", r.dest.Name(), a.inst, reason), reset.Code)
}

// explainReset maps the end of a stream to what the caller is told.
func explainReset(reset h2.Reset) (codes.Code, wire.Flag, string) {
	switch reset.Cause {
	case h2.CauseConn:
		return codes.Unavailable, wire.FlagUpstreamTermination, "the connection ended: " + reset.Err.Error()
	case h2.CauseGoAway:
		return codes.Unavailable, wire.FlagUpstreamTermination, "the instance is going away"
	case h2.CauseMalformed:
		return codes.Internal, wire.FlagUpstreamProtocolError, "it broke the protocol: " + reset.Err.Error()
	case h2.CauseOverBudget:
		return codes.ResourceExhausted, wire.FlagOverload, "the sidecar keeps too many requests in memory"
	default:
		return wire.CodeFromReset(uint32(reset.Code)), wire.FlagUpstreamReset, "it reset the stream with " + reset.Code.String()
	}
}
