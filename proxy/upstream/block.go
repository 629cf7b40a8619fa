package upstream

import "strings"

// Reason is a set of reasons for which an instance that can be reached is left
// alone.
type Reason uint32

// The reasons.
const (
	// Ejected is an instance that fails more than the others (package outlier).
	Ejected Reason = 1 << iota
	// Unhealthy is one whose health checks fail (package health).
	Unhealthy
	// Broken is one whose own circuit breaker is open (package breaker).
	Broken
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
	if on {
		in.reasons.Or(uint32(reason))
	} else {
		in.reasons.And(^uint32(reason))
	}
}

// Blocked returns the reasons for which the instance is left alone now. While it is
// only for these that no instance is usable, those that are blocked are better than
// none.
func (in *Instance) Blocked() Reason { return Reason(in.reasons.Load()) }

// Reachable says whether the instance may take an RPC as far as connections go,
// whatever it is Blocked for.
func (in *Instance) Reachable() bool {
	return !in.avoided.Load() && !in.slow.Load() && !in.refusal.active.Load()
}
