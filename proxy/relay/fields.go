package relay

import "github.com/pillion-proxy/pillion/proxy/h2"

// ordinaryFields is how many bytes a request's fields may take without counting
// against the budget. Hardly any request has more.
const ordinaryFields = 4 << 10

const (
	// usualFields is how many fields a request may have that count as what they take.
	usualFields = 64
	// furtherField is how many bytes each further one counts for: the garbage collector
	// looks at them one by one, which costs others far more than their memory does.
	furtherField = 400
)

// tooManyFields is what a caller is told whose request's fields the budget has no
// room for.
const tooManyFields = "overloaded: the sidecar keeps too much already to take this RPC's headers (http2.buffer_budget)"

// reserveFields has the request's fields count against the budget: they are kept
// until the RPC is answered, and callers choose how large they are. It is false
// where they are more than the process may keep. r.mu is held.
func (r *RPC) reserveFields() bool {
	n := r.block.Memory() + furtherField*max(0, len(r.block.Fields)-usualFields)
	if n <= ordinaryFields {
		return true
	}
	if !r.p.cfg.Budget.Take(n) {
		return false
	}
	r.fieldBytes = n
	return true
}

// freeFields lets go of the request's fields. r.mu is held.
func (r *RPC) freeFields() {
	h2.FreeBlock(r.block)
	r.block = nil
	if r.fieldBytes > 0 {
		r.p.cfg.Budget.Release(r.fieldBytes)
		r.fieldBytes = 0
	}
}
