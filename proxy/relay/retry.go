package relay

import "github.com/pillion-proxy/pillion/proxy/h2"

// mayRetry says whether an RPC that provably was not processed may be sent
// again: all of its request is still here, and there is time (gRFC A6,
// transparent retries). r.mu is held.
func (r *RPC) mayRetry(b *h2.Batch) bool {
	return r.replayable && r.phase == phaseTrying && int(r.sent) < r.p.cfg.Retry.MaxAttempts && !r.expired(b)
}

// retryElsewhere begins another attempt, at another instance if there is one.
// r.mu is held.
func (r *RPC) retryElsewhere(b *h2.Batch, a *attempt) {
	r.tried = append(r.tried, a.inst)
	a.cancel(b, h2.NoError)
	r.try(b)
}
