package consul

import (
	"context"
	"time"
)

// backoff is how long to wait before the next attempt after failures in a row.
type backoff struct {
	base, most time.Duration
	// least is the shortest first wait, where that is to be spread wider. 0: as the others.
	least    time.Duration
	random   func() float64
	failures int
}

// next counts a failure and returns the wait: twice as long each time, and
// between half and all of that, so that the queries of all sidecars do not
// return at the same moment.
func (b *backoff) next() time.Duration {
	wait := b.most
	if shift := b.failures; shift < 16 {
		wait = min(b.most, b.base<<shift)
	}
	least := wait / 2
	if b.failures == 0 && b.least > 0 {
		least = b.least
	}
	b.failures++

	return spread(b.random, least, wait)
}

func (b *backoff) reset() { b.failures = 0 }

// spread is a moment between two.
func spread(random func() float64, from, to time.Duration) time.Duration {
	return from + time.Duration(random()*float64(to-from))
}

// sleep waits, or returns false as soon as ctx ends.
func sleep(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()

	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
