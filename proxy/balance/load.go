package balance

import "sync/atomic"

// Load is what a set of instances has under way, as bounds follow from it. It
// outlives Sets: RPCs end after their instances are gone.
type Load struct {
	// RPCs is how many RPCs are under way on the instances. Whoever begins one adds
	// it, and takes it off as it ends, whatever has become of the set.
	RPCs atomic.Int64
	// strays corrects that for RPCs on the instances that are not counted, and for
	// those that are though their instance left the set.
	strays atomic.Int64
	usable atomic.Uint64 // the sum of the usable instances' weights; 0: not known
}

// Changed says that the set has changed, and how many RPCs its instances have under
// way in truth.
func (l *Load) Changed(rpcs int64) { l.strays.Store(rpcs - l.RPCs.Load()) }

// Seen says how many RPCs the instances had under way when somebody looked, and the
// sum of the usable ones' weights: bounds that count the others are too low. Since
// RPCs begin and end while somebody counts, strays can only be found to have ended.
func (l *Load) Seen(rpcs int64, usable uint64) {
	l.usable.Store(usable)
	strays := l.strays.Load()
	if strays == 0 {
		return
	}
	off := rpcs - l.RPCs.Load()
	l.strays.CompareAndSwap(strays, min(max(off, min(strays, 0)), max(strays, 0)))
}

// total is how many RPCs are under way on the instances.
func (l *Load) total() int64 { return max(l.RPCs.Load()+l.strays.Load(), 0) }
