package observe

import (
	"math/bits"
	"sync/atomic"
)

const (
	// unitSlots is how many failing keys are remembered; what is beyond takes the place of
	// another, whose failures then count anew.
	unitSlots = 1024
	// fewUnits is how many keys each group has to have for the bound to hold. With fewer,
	// one key may be all that a version has, and if everything fails for it, that is to
	// count.
	fewUnits = 16
	// groups is how many are compared.
	groups = 2

	// lowBits of a key's hash are not told apart among failing keys: a slot that is 0 has
	// none.
	lowBits = 8
)

// Units bounds how many failures of one key count among two groups that are compared: a
// user for whom every RPC fails, on whatever version, fails a hundred times in the group
// that has them, and that is not a hundred reasons to think the group worse. Only the
// first failure of each key counts, as package sequential asks for; the others are left
// out of the RPCs too, in both groups alike. It does not hold before both groups have 16
// keys. The zero value is ready for use; it must not be copied.
type Units struct {
	// seen has for each group a bit for the hash of each key.
	seen [groups][2]atomic.Uint64
	_    [cacheLine]byte // seen is read with every RPC, failures change at each
	// failed holds the hashes of keys that have failed.
	failed [unitSlots]atomic.Uint64
}

// counts takes note of an RPC of a key, and says whether it counts.
func (u *Units) counts(group int, unit uint64, failed bool) bool {
	if unit == 0 {
		return true
	}
	if word, bit := &u.seen[group][unit&1], uint64(1)<<(unit>>1&63); word.Load()&bit == 0 {
		word.Or(bit)
	}
	if !failed {
		return true
	}
	slot, key := &u.failed[unit>>lowBits%unitSlots], unit|(1<<lowBits-1)
	if slot.Load() != key {
		slot.Store(key)
		return true
	}
	return u.few()
}

// few says whether there are too few keys to tell them from a group.
func (u *Units) few() bool {
	for i := range u.seen {
		if bits.OnesCount64(u.seen[i][0].Load())+bits.OnesCount64(u.seen[i][1].Load()) < fewUnits {
			return true
		}
	}
	return false
}
