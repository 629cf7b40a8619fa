package observe

import (
	"math/bits"
	"sync/atomic"
)

const (
	// unitSlots is how many failing keys are remembered; what is beyond takes the place of
	// another, whose failures then count anew.
	unitSlots = 1024
	// fewUnits is how many keys there have to be for the bound to hold. With fewer, one key
	// may be all that a version has, and if everything fails for it, that is to count.
	fewUnits = 64
	// PerUnit is how many failures of one key count.
	PerUnit = 2

	countBits = 8
	countMask = 1<<countBits - 1
)

// Units bounds how many failures of one key count among the groups that are compared: a
// user for whom every RPC fails, on whatever version, fails a hundred times in the group
// that has them, and that is not a hundred reasons to think the group worse. Failures
// beyond [PerUnit] are left out of the RPCs too, in both groups alike. The zero value is
// ready for use; it must not be copied.
type Units struct {
	// seen has a bit for the hash of each key, half of them with about 177 keys.
	seen [4]atomic.Uint64
	_    [cacheLine]byte // seen is read with every RPC, failures change at each
	// failed holds the upper bits of a key's hash, and below them how often it failed.
	failed [unitSlots]atomic.Uint64
}

// counts takes note of an RPC of a key, and says whether it counts.
func (u *Units) counts(unit uint64, failed bool) bool {
	if unit == 0 {
		return true
	}
	if word, bit := &u.seen[unit&3], uint64(1)<<(unit>>2&63); word.Load()&bit == 0 {
		word.Or(bit)
	}
	if !failed {
		return true
	}
	slot := &u.failed[unit>>countBits%unitSlots]
	for {
		was := slot.Load()
		now := unit&^countMask | 1
		if was&^countMask == unit&^countMask {
			if was&countMask >= PerUnit {
				return u.few()
			}
			now = was + 1
		}
		if slot.CompareAndSwap(was, now) {
			return true
		}
	}
}

// few says whether there are too few keys to tell them from the group.
func (u *Units) few() bool {
	var n int
	for i := range u.seen {
		n += bits.OnesCount64(u.seen[i].Load())
	}
	return n < fewUnits
}
