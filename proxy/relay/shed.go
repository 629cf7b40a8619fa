package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// What a caller is told whose RPC is refused. They are constants because refusing
// has to cost next to nothing.
const (
	tooManyRPCs = "overloaded: as many RPCs are under way in this sidecar as overload.max_rpcs allows"
	overLimit   = "overloaded: the app has as many RPCs as it can answer without becoming slow (overload.adaptive_concurrency)"
)

// shed refuses an RPC at its headers, before anything was done for it. r.mu is
// held.
//
// The inbound side says UNAVAILABLE: the app has not seen the RPC, and another
// instance may take it. The outbound side says RESOURCE_EXHAUSTED, since the same
// sidecar is the only way that the app's RPCs have, and UNAVAILABLE would make
// clients try again at once. grpc-retry-pushback-ms (gRFC A6) is not sent: in the
// place of a client's own waits, which grow and differ, it would have all those
// that are refused together come back together.
func (r *RPC) shed(b *h2.Batch, h *h2.Head, verdict admission.Verdict) {
	if verdict == admission.FarTooMany {
		// Nobody reads the answers: this leaves nothing behind that waits for that.
		r.down.Reset(b, h2.RefusedStream)
		r.end(b, codes.Unavailable, wire.FlagOverload, tooManyRPCs)
		return
	}
	if status := r.readHeaders(h); status != 0 {
		r.refusal = status
		r.sendRefusal(b)
		return
	}
	code, message := codes.Unavailable, tooManyRPCs
	if r.p.cfg.Side == telemetry.Outbound {
		code = codes.ResourceExhausted
	}
	switch {
	case r.own:
		message = tooManyOwn
	case verdict == admission.OverLimit:
		message = overLimit
	}
	r.fail(b, code, wire.FlagOverload, message)
}

// elsewhere returns another instance for an RPC that a sidecar refused because
// it, or its app, is overloaded. There is one such attempt for an RPC, to an
// instance that was not tried, and few in vain (admission.Throttle). r.mu is held.
func (r *RPC) elsewhere(b *h2.Batch, a *attempt) (*upstream.Instance, bool) {
	if r.overloaded || !r.mayRetry(b) {
		return nil, false
	}
	r.tried = append(r.tried, a.inst)
	inst, ok := r.dest.Pick(r.wants(r.skip))
	r.overloaded = ok && r.dest.Overload.Take()
	return inst, r.overloaded
}
