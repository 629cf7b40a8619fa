// Package balance picks one of many instances for each RPC. It does not know
// what an instance is, how one is reached or why one is unusable.
//
// A pick costs the same among ten instances and among ten thousand as long as
// most of them are usable; it takes no lock and allocates nothing.
package balance

// Instance is what a Picker chooses among. Its methods are called from many
// goroutines, on the path of every RPC: they are a few atomic loads.
type Instance interface {
	// Usable reports whether the instance may take an RPC now. It is false,
	// say, while an instance that refused connections is left alone.
	Usable() bool
	// InFlight is how many RPCs are under way on the instance from this
	// sidecar.
	InFlight() int64
}

// Picker chooses among the instances it was made with. A new one is made for
// each new set of instances; all that changes in a Picker is its position. Its
// methods may be called from many goroutines at once.
type Picker[I Instance] interface {
	// Pick returns an instance that is usable and that skip, unless it is nil,
	// does not report true for: a retry skips the instances that it has tried.
	// It is false only if there is no such instance.
	//
	// A closure made for the call would be an allocation: on an RPC's path,
	// pass nil or a function made beforehand.
	Pick(skip func(I) bool) (I, bool)
}

// New returns a Picker of the policy for the instances, which are not to
// change any more, and neither are their weights.
//
// An instance's share of the RPCs is its weight divided by the sum of all. A
// weight that is 0 or missing counts as 1, so nil weights are equal ones.
// PickFirst has no use for weights.
//
// rnd returns 64 random bits and is safe for concurrent use, as
// math/rand/v2.Uint64 is.
func New[I Instance](policy Policy, instances []I, weights []uint32, rnd func() uint64) Picker[I] {
	switch policy {
	case LeastRequest:
		return newLeastRequest(instances, weights, rnd)
	case PickFirst:
		return &pickFirst[I]{instances: instances}
	default:
		return newRoundRobin(instances, weights, rnd)
	}
}
