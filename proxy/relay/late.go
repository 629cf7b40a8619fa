package relay

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// earlyClock is how much sooner than ours a caller's clock may say that its deadline
// has passed: it began before the request was on its way, and a caller's library
// cancels then. That is not its will but the instance's fault.
const earlyClock = 20 * time.Millisecond

// givenUp says that a caller that cancels now does so because its deadline passes. A
// deadline that is not its own it knows nothing of. r.mu is held.
func (r *RPC) givenUp(b *h2.Batch) bool {
	return r.expired(b) ||
		r.deadline > 0 && !r.capped && b.Now().Sub(r.start) >= r.deadline-min(r.deadline/10, earlyClock)
}
