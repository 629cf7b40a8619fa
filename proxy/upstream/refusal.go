package upstream

import (
	"sync/atomic"
)

// refusal is what is known of an instance that can be connected to and yet takes
// no RPCs: the sidecar beside it says that it cannot reach its app. It is left
// alone like one that refuses connections, but as long as another can be had
// only: asking costs one exchange on a connection that is open anyway.
type refusal struct {
	active atomic.Bool // left alone now
	ever   atomic.Bool // app has failures
	app    backoff     // guarded by Instance.mu
}

// Refused notes that the sidecar beside the instance could not reach its app.
func (in *Instance) Refused(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.refusal.active.Load() {
		return
	}
	in.refusal.ever.Store(true)
	in.refusal.active.Store(true)
	in.lost()
	in.refusal.app.failed(in.opts, err, func() { in.refusal.active.Store(false) })
}

// Accepted notes that the instance answered an RPC.
func (in *Instance) Accepted() {
	if !in.refusal.ever.Load() && !in.failing.Load() {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refusal.ever.Load() {
		in.refusal.ever.Store(false)
		in.refusal.active.Store(false)
		in.refusal.app.succeeded()
	}
	in.workedWell()
}
