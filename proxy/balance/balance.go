// Package balance picks one of many instances for each RPC. It does not know
// what an instance is, how one is reached or why one is unusable.
//
// A pick costs the same among ten instances and among ten thousand as long as
// most of them are usable; it takes no lock and allocates nothing.
//
// Beside the pickers stand two things that some of them weigh instances by:
// [Latency] estimates how quickly an instance answers, and [Reports] makes
// weights of what instances say of their load. Who has both is the caller.
package balance

// Instance is what a Picker chooses among. Its methods are called from many
// goroutines, on the path of every RPC: they are a few atomic loads.
type Instance interface {
	comparable
	// Usable reports whether the instance may take an RPC now. It is false,
	// say, while an instance that refused connections is left alone.
	Usable() bool
	// Reachable reports whether the instance could take an RPC now, though it
	// had better not: it is Usable, or fails too often to be.
	Reachable() bool
	// InFlight is how many RPCs are under way on the instance from this
	// sidecar.
	InFlight() int64
	// Latency is how long the instance takes to answer, in nanoseconds, 0 where
	// that is not known. now is the Unix time in nanoseconds. EWMA alone asks.
	Latency(now int64) float64
	// HashKey names the instance to RingHash and Maglev, the same on every
	// sidecar. It is asked as a Picker is made.
	HashKey() string
}

// Query is what one RPC asks a Picker for. It is small enough to be passed in
// registers.
type Query[I Instance] struct {
	// Skip, unless it is nil, reports true for instances that are not wanted: a
	// retry skips those that it has tried. A closure made for the call would be
	// an allocation: on an RPC's path, pass nil or a function made beforehand.
	Skip func(I) bool
	// Hash decides for RingHash and Maglev, if Hashed; else chance does.
	Hash   uint64
	Hashed bool
	// Panic has all instances be picked that are Reachable, usable or not.
	Panic bool
	// Peek has nothing be changed: it is for showing what would be picked.
	Peek bool
	// Now is the Unix time in nanoseconds, for EWMA alone.
	Now int64
}

// Picker chooses among the instances it was made with. A new one is made for
// each new set of instances; all that changes in a Picker is its position. Its
// methods may be called from many goroutines at once.
type Picker[I Instance] interface {
	// Pick returns an instance as the query wants it. It is false only if there
	// is none.
	Pick(q Query[I]) (I, bool)
	// Reweighted returns a Picker among the same instances by other weights,
	// which goes on where this one is. RingHash, Maglev and PickFirst return
	// themselves: positions that moved with the weights would be of no use.
	Reweighted(weights []uint32) Picker[I]
}

// Options say how a Picker picks. The zero value is a round robin.
type Options struct {
	Policy Policy
	// RingSize is how many points four instances of the same weight have
	// together on the ring of RingHash; other weights have as many more or
	// fewer. Default 1024.
	RingSize int
	// TableSize is the size of the table of Maglev, rounded up to a prime number.
	// Default 65537.
	TableSize int
	// BoundedLoad is how many times its share of all RPCs under way an instance
	// may have before RingHash and Maglev go on to the next. 0: any number; else
	// at least 1.
	BoundedLoad float64
}

// Set is the instances that a Picker chooses among. It is not to change any
// more.
type Set[I Instance] struct {
	Instances []I
	// Weights are the instances' shares of the RPCs, to be divided by the sum
	// of all. One that is 0 or missing counts as 1, so nil is equal weights.
	// PickFirst has no use for weights.
	Weights []uint32
	// Load counts what the instances have under way, for a BoundedLoad. Nil: the
	// bound does not hold.
	Load *Load
}

// New returns a Picker as the options say. before, unless it is nil, is that of
// the instances as they were until now: where it is of the same kind, the new one
// goes on where it is.
//
// rnd returns 64 random bits and is safe for concurrent use, as
// math/rand/v2.Uint64 is.
func New[I Instance](o Options, set Set[I], rnd func() uint64, before Picker[I]) Picker[I] {
	switch o.Policy {
	case LeastRequest:
		return newLeastRequest(set, rnd, before)
	case PickFirst:
		return newPickFirst(set.Instances, before)
	case RingHash:
		return newHashed(set, rnd, o.BoundedLoad, newRing(set, o.RingSize))
	case Maglev:
		return newHashed(set, rnd, o.BoundedLoad, newMaglev(set, o.TableSize))
	case EWMA:
		return newEWMA(set, rnd)
	case Random:
		return newRandom(set, rnd)
	default:
		return newRoundRobin(set, rnd, before)
	}
}
