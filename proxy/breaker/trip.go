package breaker

import "time"

// Trip says when a breaker opens, by whichever of its conditions holds first, and
// what happens then. A condition whose number is 0 does not matter.
type Trip struct {
	// ConsecutiveFailures is how many failures in a row open it.
	ConsecutiveFailures int
	// FailureRatio is the share of failures in Window that opens it, up to 1.
	FailureRatio float64
	// SlowCallRatio is the share of RPCs in Window that took longer than SlowCall
	// that opens it, up to 1.
	SlowCallRatio float64
	SlowCall      time.Duration
	// Window is how far back the shares are counted, to a tenth of it. Default 10 s.
	Window time.Duration
	// MinVolume is how many RPCs there must be in Window before shares mean
	// something. Default 20.
	MinVolume int
	// OpenFor is how long it stays open the first time. Default 5 s.
	OpenFor time.Duration
	// MaxOpenFor is the longest that it stays open. Default 60 s, at least OpenFor.
	MaxOpenFor time.Duration
	// Probes is how many RPCs are under way at a time while it is half-open, and how
	// many in a row have to succeed then. Default 3.
	Probes int
}

// WithDefaults returns a copy in which every field but the conditions has a value.
func (t Trip) WithDefaults() Trip {
	if t.Window <= 0 {
		t.Window = 10 * time.Second
	}
	if t.MinVolume <= 0 {
		t.MinVolume = 20
	}
	if t.OpenFor <= 0 {
		t.OpenFor = 5 * time.Second
	}
	if t.MaxOpenFor <= 0 {
		t.MaxOpenFor = time.Minute
	}
	t.MaxOpenFor = max(t.MaxOpenFor, t.OpenFor)
	if t.Probes <= 0 {
		t.Probes = 3
	}
	return t
}

// shares says that results of the past matter, not the last ones alone.
func (t Trip) shares() bool { return t.FailureRatio > 0 || t.SlowCallRatio > 0 }

// slow says that an RPC was slow, where that matters.
func (t Trip) slow(firstByte time.Duration) bool {
	return t.SlowCallRatio > 0 && firstByte > t.SlowCall
}

// longer is how long it stays open after it was open for d, and that in vain.
func (t Trip) longer(d time.Duration) time.Duration {
	if d >= t.MaxOpenFor-d {
		return t.MaxOpenFor
	}
	return 2 * d
}
