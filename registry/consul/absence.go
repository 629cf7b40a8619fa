package consul

import (
	"context"
	"sync"
	"time"
)

// returnWithin is how long after an agent is back the queries that waited for it are
// asked again, each at a moment of its own.
const returnWithin = 1500 * time.Millisecond

// absence is what the queries of one sidecar know together of an agent that gives no
// answer. One of them, the scout, tries again soon and ever later. The others, who would
// learn nothing else, wait as long as anybody ever waits between two attempts, or until
// the agent has answered somebody: then they come back, spread over returnWithin. So a
// lost connection is mended at once, and an agent that restarts, under whom all the
// queries of all its sidecars fail in one instant, does not see them all in one instant
// again.
type absence struct {
	random func() float64

	mu    sync.Mutex
	scout any           // who tries for all; nil: nobody does
	tried chan struct{} // closed, and renewed, each time the scout has tried in vain
	back  chan struct{} // closed, and renewed, each time the agent has answered
}

func newAbsence(random func() float64) *absence {
	return &absence{random: random, tried: make(chan struct{}), back: make(chan struct{})}
}

// wait waits after a query of who got no answer, until it should be asked again. own is
// how long that is for the scout. again is called for the others each time that the scout
// has failed too. It is false where that was, or ctx ended.
func (a *absence) wait(ctx context.Context, who any, own time.Duration, again func() bool) bool {
	isScout, tried, back := a.join(who)
	if isScout {
		return sleep(ctx, own)
	}
	timer := time.NewTimer(spread(a.random, failureMost/2, failureMost))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			// The scout may be hanging, or of another opinion for reasons of its own.
			return true
		case <-back:
			return sleep(ctx, spread(a.random, 0, returnWithin))
		case <-tried:
			if !again() {
				return false
			}
			tried = a.nextTry()
		}
	}
}

// join says that a query of who failed, and whether it is the scout.
func (a *absence) join(who any) (isScout bool, tried, back <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()

	switch a.scout {
	case nil:
		a.scout = who
	case who:
		close(a.tried)
		a.tried = make(chan struct{})
	}

	return a.scout == who, a.tried, a.back
}

func (a *absence) nextTry() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()

	return a.tried
}

// leave says that who asks no more.
func (a *absence) leave(who any) {
	a.mu.Lock()
	defer a.mu.Unlock()

	if a.scout == who {
		a.scout = nil
	}
}

// end says that the agent has answered somebody.
func (a *absence) end() {
	a.mu.Lock()
	defer a.mu.Unlock()

	if a.scout != nil {
		a.scout = nil
		close(a.back)
		a.back = make(chan struct{})
	}
}
