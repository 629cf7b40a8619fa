package experiment

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	// maxVariants is how many variants there can be.
	maxVariants = 16
	// unitsPerShard is how many units there should be in a shard at least, so that they are
	// filled alike; maxShards is how many shards there are at most.
	unitsPerShard, maxShards = 256, 256
	cacheLine                = 64
)

// counter counts what came of the RPCs of each unit, in one run of an experiment on one
// sidecar. Its methods may be called from many goroutines at once.
type counter struct {
	measures []measure
	variants int
	perShard int
	// threshold only goes down. Shards forget what is above it when they are looked at next,
	// so that an RPC never waits for all of them.
	threshold atomic.Uint64
	shards    []shard
	// changes counts what was counted, and what was forgotten.
	changes atomic.Uint64
}

// shard has the units whose mixed hashes end alike.
type shard struct {
	mu        sync.Mutex
	threshold uint64 // what is above it was forgotten
	index     map[uint64]int32
	rows      []row
	cells     []cell  // of each row in turn, one for each measure
	changed   []int32 // rows that have something to report
	units     [maxVariants]int32
	crossed   int32
	_         [cacheLine]byte // a neighbour's lock is not on our last line
}

// row is a unit.
type row struct {
	unit    uint64
	variant uint8
	crossed bool // it was seen in several variants, and counts for nothing
	changed bool // it is among shard.changed
}

// newCounter returns a counter that keeps about as many units at most.
func newCounter(measures []measure, variants, maxUnits int) *counter {
	shards := 1 << max(bits.Len(uint(max(maxUnits/unitsPerShard, 1)))-1, 0)
	c := &counter{measures: measures, variants: variants, shards: make([]shard, min(shards, maxShards))}
	c.perShard = max(maxUnits/len(c.shards), 1)
	c.threshold.Store(everything)
	for i := range c.shards {
		c.shards[i] = shard{threshold: everything, index: make(map[uint64]int32)}
	}
	return c
}

// count counts an RPC.
func (c *counter) count(variant uint8, o *telemetry.Outcome) {
	if o.Excused || o.Forced || o.Unit == 0 {
		return
	}
	mixed := mix(o.Unit)
	if mixed >= c.threshold.Load() {
		return
	}
	s := c.shard(mixed)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := c.row(s, o.Unit, mixed, variant)
	if !ok {
		return
	}
	c.changes.Add(1)
	s.touch(r)
	if s.rows[r].crossed {
		return
	}
	cells := s.of(r, len(c.measures))
	for i := range cells {
		if v, ok := c.measures[i].value(o); ok {
			cells[i].count++
			cells[i].sum += v
		}
	}
}

func (c *counter) shard(mixed uint64) *shard { return &c.shards[mixed&uint64(len(c.shards)-1)] }

// row returns the row of a unit; false: it is not kept. s.mu is held.
func (c *counter) row(s *shard, unit, mixed uint64, variant uint8) (int32, bool) {
	c.prune(s)
	if mixed >= s.threshold {
		return 0, false
	}
	if r, ok := s.index[unit]; ok {
		if have := &s.rows[r]; have.variant != variant && !have.crossed {
			c.cross(s, r)
		}
		return r, true
	}
	for len(s.rows) >= c.perShard {
		c.lower(s.threshold / 2)
		c.prune(s)
		if mixed >= s.threshold {
			return 0, false
		}
	}
	return c.add(s, unit, variant), true
}

// add adds a unit that is not there. s.mu is held.
func (c *counter) add(s *shard, unit uint64, variant uint8) int32 {
	r := int32(len(s.rows))
	s.rows = append(s.rows, row{unit: unit, variant: variant})
	for range c.measures {
		s.cells = append(s.cells, cell{})
	}
	s.index[unit] = r
	s.units[variant]++
	return r
}

// cross notes that a unit was seen in several variants. s.mu is held.
func (c *counter) cross(s *shard, r int32) {
	s.rows[r].crossed = true
	clear(s.of(r, len(c.measures)))
	s.units[s.rows[r].variant]--
	s.crossed++
}

// of returns the cells of a row. mu is held.
func (s *shard) of(r int32, measures int) []cell {
	return s.cells[int(r)*measures : (int(r)+1)*measures]
}

// touch notes that a row has something to report. mu is held.
func (s *shard) touch(r int32) {
	if !s.rows[r].changed {
		s.rows[r].changed = true
		s.changed = append(s.changed, r)
	}
}

// lower has the threshold be no higher than t.
func (c *counter) lower(t uint64) {
	for {
		now := c.threshold.Load()
		if t >= now {
			return
		}
		if c.threshold.CompareAndSwap(now, t) {
			c.changes.Add(1)
			return
		}
	}
}

// prune forgets units above the threshold. s.mu is held.
func (c *counter) prune(s *shard) {
	t := c.threshold.Load()
	if t >= s.threshold {
		return
	}
	s.threshold = t
	n, kept := len(c.measures), int32(0)
	clear(s.index)
	s.changed = s.changed[:0]
	s.units, s.crossed = [maxVariants]int32{}, 0
	for r, old := range s.rows {
		if mix(old.unit) >= t {
			continue
		}
		s.rows[kept] = old
		copy(s.of(kept, n), s.of(int32(r), n))
		s.index[old.unit] = kept
		if old.changed {
			s.changed = append(s.changed, kept)
		}
		if old.crossed {
			s.crossed++
		} else {
			s.units[old.variant]++
		}
		kept++
	}
	s.rows, s.cells = s.rows[:kept], s.cells[:int(kept)*n]
}

// sizes says how many units are kept, by variant, and how many were seen in several.
func (c *counter) sizes() (units [maxVariants]int, crossed int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.prune(s)
		for v, n := range s.units {
			units[v] += int(n)
		}
		crossed += int(s.crossed)
		s.mu.Unlock()
	}
	return units, crossed
}
