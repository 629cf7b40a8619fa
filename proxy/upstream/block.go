package upstream

import (
	"math/bits"
	"strings"
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
	for {
		was := Reason(in.reasons.Load())
		is := was | reason
		if !on {
			is = was &^ reason
		}
		if was&retired != 0 || is == was {
			return
		}
		if in.reasons.CompareAndSwap(uint32(was), uint32(is)) {
			in.countBlocked(was, is)
			if on && reason != Ejected {
				in.lost()
			}
			return
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

// Usable implements balance.Instance.
func (in *Instance) Usable() bool {
	return (in.reasons.Load() == 0 || in.onProbation()) && in.Reachable()
}

// Reachable says whether the instance may take an RPC as far as connections go,
// whatever it is Blocked for.
func (in *Instance) Reachable() bool {
	return !in.avoided.Load() && !in.slow.Load() && !in.refusal.active.Load()
}
