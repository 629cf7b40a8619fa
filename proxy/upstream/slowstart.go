package upstream

import (
	"math"
	"time"
)

// warming is how far an instance is with its slow start. It is guarded by
// Cluster.mu.
type warming struct {
	since time.Time // when it began; zero: it is over, or there is none
	down  bool      // it could not be used when somebody looked last
}

// look takes note of whether the instance can be used now: one that could not
// before begins anew. It says whether that is so.
func (w *warming) look(usable bool, now time.Time) (returned bool) {
	returned = usable && w.down
	w.down = !usable
	if returned {
		w.since = now
	}
	return returned
}

// share is the part of its whole that the instance has now. While it cannot be used,
// it is already the one that it will begin with.
func (w *warming) share(s *SlowStart, now time.Time) float64 {
	least := float64(s.MinPercent) / 100
	if w.down {
		return least
	}
	if w.since.IsZero() {
		return 1
	}
	passed := now.Sub(w.since)
	if passed >= s.Window {
		w.since = time.Time{}
		return 1
	}
	return max(least, math.Pow(float64(max(passed, 0))/float64(s.Window), 1/s.Aggression))
}
