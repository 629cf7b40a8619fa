package filewatch

import (
	"context"
	"time"
)

// settle calls act after changes, once they have settled down: after a while
// without one, or when they have gone on for too long. It also calls it now and
// then without any. It returns when ctx ends.
func settle(ctx context.Context, changes <-chan struct{}, act func()) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	var first time.Time // of the changes that are not acted on yet
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			timer.Reset(min(quiet, first.Add(patience).Sub(now)))
		case <-timer.C:
			first = time.Time{}
			act()
		case <-poll.C:
			if first.IsZero() {
				act()
			}
		}
	}
}
