package upstream

import (
	"math/bits"
	"strings"
	"time"
)

// Reason is a set of reasons for which an instance that can be reached is left
// alone.
type Reason uint32

// The reasons.
const (
	// Ejected is an instance that fails more than the others (package outlier).
	Ejected Reason = 1 << iota
	// Unhealthy is one whose health checks fail (package health).
	Unhealthy
	// Broken is one whose own circuit breaker is open, or half-open (package
	// breaker).
	Broken

	// retired is set once the instance is gone from the registry, which ends it all.
	retired Reason = 1 << 31
)

// String names the reasons, separated by ", ".
func (r Reason) String() string {
	var names []string
	for _, one := range [...]struct {
		reason Reason
		name   string
	}{{Ejected, "ejected"}, {Unhealthy, "unhealthy"}, {Broken, "broken"}} {
		if r&one.reason != 0 {
			names = append(names, one.name)
		}
	}
	return strings.Join(names, ", ")
}

// Block sets or lifts reasons for which the instance is left alone.
func (in *Instance) Block(reason Reason, on bool) {
	was, is := in.block(reason, on)
	switch {
	case on && was&reason != reason && reason != Ejected:
		in.lost()
	case was != 0 && is == 0:
		in.returned.Store(time.Now().UnixNano())
	}
}

func (in *Instance) block(reason Reason, on bool) (was, is Reason) {
	for {
		was = Reason(in.reasons.Load())
		switch is = was | reason; {
		case was&retired != 0:
			return was, was
		case !on:
			is = was &^ reason
		}
		if in.reasons.CompareAndSwap(uint32(was), uint32(is)) {
			in.countBlocked(was, is)
			return was, is
		}
	}
}

// retire ends all reasons for good.
func (in *Instance) retire() {
	was := Reason(in.reasons.Swap(uint32(retired)))
	in.countBlocked(was&^retired, 0)
}

// countBlocked keeps the gauges.
func (in *Instance) countBlocked(was, is Reason) {
	for changed := was ^ is; changed != 0; changed &= changed - 1 {
		i := bits.TrailingZeros32(uint32(changed))
		if is&(1<<i) != 0 {
			in.counts.Judgement.Blocked[i].Add(1)
		} else {
			in.counts.Judgement.Blocked[i].Add(-1)
		}
	}
}

// Blocked returns the reasons for which the instance is left alone now. While it is
// only for these that no instance is usable, those that are blocked are better than
// none.
func (in *Instance) Blocked() Reason { return Reason(in.reasons.Load()) &^ retired }

// Returned is when the last reason for which the instance was left alone was lifted,
// the zero time where there was none.
func (in *Instance) Returned() time.Time {
	if at := in.returned.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Usable implements balance.Instance.
func (in *Instance) Usable() bool {
	return (in.reasons.Load() == 0 || in.onProbation()) && in.Reachable()
}

// Reachable says whether the instance may take an RPC as far as connections go,
// whatever it is Blocked for.
func (in *Instance) Reachable() bool {
	return !in.avoided.Load() && !in.slow.Load() && !in.refusal.active.Load()
}
