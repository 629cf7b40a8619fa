package observe

import (
	"errors"
	"fmt"
	"math"
	"time"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// maxCount bounds what another sidecar may say of one counter: a thousand of them can
	// be added up, and all are exact as floating-point numbers.
	maxCount = 1 << 50
	// maxInstances bounds how many instances a group may be said to have.
	maxInstances = 1 << 20
)

// Counts is what was counted of a group.
type Counts struct {
	// Codes is how many RPCs ended with each status.
	Codes [Codes]uint64
	// Buckets is how many took how long; see Bound.
	Buckets [Buckets]uint64
	// Ejections is how often an instance was ejected, or a circuit to it opened.
	Ejections uint64
	// Instances is how many instances the group has.
	Instances uint32
}

// CodeSet is a set of statuses, a bit for each by its number.
type CodeSet uint32

// Has says whether a status is in the set.
func (s CodeSet) Has(code int) bool { return s>>code&1 == 1 }

// RPCs returns how many RPCs ended.
func (c *Counts) RPCs() (n uint64) {
	for _, one := range c.Codes {
		n += one
	}
	return n
}

// Failures returns how many of them ended with one of the statuses.
func (c *Counts) Failures(set CodeSet) (n uint64) {
	for code, one := range c.Codes {
		if set.Has(code) {
			n += one
		}
	}
	return n
}

// Timed returns of how many RPCs it is known how long they took. While RPCs are being
// counted it may be ahead of RPCs or behind it by those.
func (c *Counts) Timed() (n uint64) {
	for _, one := range c.Buckets {
		n += one
	}
	return n
}

// Over returns how many RPCs took longer than the upper bound of a bucket.
func (c *Counts) Over(bucket int) (n uint64) {
	for _, one := range c.Buckets[min(max(bucket+1, 0), Buckets):] {
		n += one
	}
	return n
}

// PercentileBucket returns the bucket in which a percentile lies, from 0 to 100; false:
// there are no RPCs.
func (c *Counts) PercentileBucket(p float64) (int, bool) {
	all := c.Timed()
	if all == 0 {
		return 0, false
	}
	rank := max(uint64(math.Ceil(float64(all)*min(max(p, 0), 100)/100)), 1)
	for i, n := range c.Buckets {
		if n >= rank {
			return i, true
		}
		rank -= n
	}
	return Buckets - 1, true
}

// Percentile returns the upper bound of the bucket in which a percentile lies, which is
// at most 9 % above it; 0: there are no RPCs. Beyond the last bucket but one it says that
// one's bound.
func (c *Counts) Percentile(p float64) time.Duration {
	i, ok := c.PercentileBucket(p)
	if !ok {
		return 0
	}
	return Bound(min(i, Buckets-2))
}

// Merge adds what was counted elsewhere. Of events and instances, which sidecars see
// alike, the greater number holds.
func (c *Counts) Merge(other *Counts) {
	c.add(other)
	c.Ejections = max(c.Ejections, other.Ejections)
	c.Instances = max(c.Instances, other.Instances)
}

func (c *Counts) add(other *Counts) {
	for i, n := range other.Codes {
		c.Codes[i] += n
	}
	for i, n := range other.Buckets {
		c.Buckets[i] += n
	}
}

// ErrBackwards says that counts are less than they were.
var ErrBackwards = errors.New("counts go backwards")

// Since returns what was counted since earlier, or ErrBackwards. Instances are those of
// now.
func (c *Counts) Since(earlier *Counts) (d Counts, err error) {
	for i, n := range c.Codes {
		if n < earlier.Codes[i] {
			return Counts{}, fmt.Errorf("%w: status %d from %d to %d", ErrBackwards, i, earlier.Codes[i], n)
		}
		d.Codes[i] = n - earlier.Codes[i]
	}
	for i, n := range c.Buckets {
		if n < earlier.Buckets[i] {
			return Counts{}, fmt.Errorf("%w: bucket %d from %d to %d", ErrBackwards, i, earlier.Buckets[i], n)
		}
		d.Buckets[i] = n - earlier.Buckets[i]
	}
	if c.Ejections < earlier.Ejections {
		return Counts{}, fmt.Errorf("%w: ejections from %d to %d", ErrBackwards, earlier.Ejections, c.Ejections)
	}
	d.Ejections, d.Instances = c.Ejections-earlier.Ejections, c.Instances
	return d, nil
}

// Proto returns the counts as sidecars say them to each other.
func (c *Counts) Proto() *meshv1.GroupCounts {
	g := &meshv1.GroupCounts{Codes: map[uint32]uint64{}, Buckets: map[uint32]uint64{}, Ejections: c.Ejections, Instances: c.Instances}
	for i, n := range c.Codes {
		if n > 0 {
			g.Codes[uint32(i)] = n
		}
	}
	for i, n := range c.Buckets {
		if n > 0 {
			g.Buckets[uint32(i)] = n
		}
	}
	return g
}

// FromProto returns what another sidecar says that it counted, checked: nil stands for
// nothing.
func FromProto(g *meshv1.GroupCounts) (c Counts, err error) {
	for i, n := range g.GetCodes() {
		if int64(i) >= int64(Codes) {
			return Counts{}, fmt.Errorf("there is no status %d", i)
		}
		if n > maxCount {
			return Counts{}, fmt.Errorf("status %d cannot have had %d RPCs", i, n)
		}
		c.Codes[i] = n
	}
	for i, n := range g.GetBuckets() {
		if int64(i) >= int64(Buckets) {
			return Counts{}, fmt.Errorf("there is no bucket %d", i)
		}
		if n > maxCount {
			return Counts{}, fmt.Errorf("bucket %d cannot have had %d RPCs", i, n)
		}
		c.Buckets[i] = n
	}
	if g.GetEjections() > maxCount || g.GetInstances() > maxInstances {
		return Counts{}, fmt.Errorf("%d ejections of %d instances cannot be", g.GetEjections(), g.GetInstances())
	}
	c.Ejections, c.Instances = g.GetEjections(), g.GetInstances()
	return c, nil
}
