package observe

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	// Codes is how many statuses there are. What an app makes up beyond them counts as
	// UNKNOWN, which is also what gRPC's libraries make of it.
	Codes = int(codes.Unauthenticated) + 1
	// maxShards bounds the memory of a counter: 15 KiB.
	maxShards = 8
	cacheLine = 64
)

// Counter counts the RPCs of one group. Its methods may be called from many goroutines
// at once; counting takes no lock and allocates nothing. It is made by
// NewCounter or NewPair.
type Counter struct {
	shards []shard
	units  *Units
	group  int // among units' groups
}

// shard has a part of the RPCs, so that cores do not wait for each other's cache lines.
type shard struct {
	codes   [Codes]atomic.Uint64
	buckets [Buckets]atomic.Uint64
	_       [cacheLine]byte // a neighbour's counters are not on our last line
}

var _ telemetry.Observer = (*Counter)(nil)

// NewPair returns the counters of two groups that are compared. The failures of one key
// count once among both, see [Units].
func NewPair() (a, b *Counter) {
	units := new(Units)
	a, b = NewCounter(), NewCounter()
	a.units, b.units, b.group = units, units, 1
	return a, b
}

// NewCounter returns the counter of a group of which all RPCs count.
func NewCounter() *Counter {
	n := 1
	for n < min(runtime.GOMAXPROCS(0), maxShards) {
		n *= 2
	}
	return &Counter{shards: make([]shard, n)}
}

// Ended implements telemetry.Observer.
func (c *Counter) Ended(o *telemetry.Outcome) { c.Count(o) }

// Count counts an RPC, and says whether it did: those that say nothing of the group are
// left out, and so are failures that their key has had already (see Units).
func (c *Counter) Count(o *telemetry.Outcome) bool {
	if o.Excused {
		return false
	}
	code := int(o.Code)
	if code >= Codes {
		code = int(codes.Unknown)
	}
	if c.units != nil && !c.units.counts(c.group, o.Unit, code != int(codes.OK)) {
		return false
	}
	s := &c.shards[0]
	if n := len(c.shards); n > 1 {
		s = &c.shards[rand.Uint64()&uint64(n-1)]
	}
	s.codes[code].Add(1)
	s.buckets[BucketOf(o.Took)].Add(1)
	return true
}

// Read puts what was counted so far into counts. Ejections and instances are not the
// counter's, and stay.
func (c *Counter) Read(counts *Counts) {
	counts.Codes, counts.Buckets = [Codes]uint64{}, [Buckets]uint64{}
	for i := range c.shards {
		s := &c.shards[i]
		for j := range s.codes {
			counts.Codes[j] += s.codes[j].Load()
		}
		for j := range s.buckets {
			counts.Buckets[j] += s.buckets[j].Load()
		}
	}
}
