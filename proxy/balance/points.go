package balance

import (
	"cmp"
	"slices"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// points say which instance a hash leads to, and which come after it. They are
// the same on every sidecar that knows the same instances, and move as little as
// may be when one comes or goes.
type points struct {
	owners []uint32
	hashes []uint64 // of the points, ascending; nil: a hash leads to its remainder
}

// at returns the point that a hash leads to.
func (p *points) at(hash uint64) int {
	if p.hashes == nil {
		return int(hash % uint64(len(p.owners)))
	}
	i := sort.Search(len(p.hashes), func(i int) bool { return p.hashes[i] >= hash })
	if i == len(p.hashes) {
		return 0
	}
	return i
}

const (
	defaultRingSize = 1024
	// maxRingSize bounds the points of rings, but each instance has one.
	maxRingSize = 1 << 16

	defaultTableSize = 65537
)

// newRing places an instance's points on a ring (gRFC A42): point i of an instance
// is at the xxHash of its key, "_" and i.
//
// A42 has the number of an instance's points fall as others come, so that keys
// move between instances that stay. Here it does not until the ring is full: a
// quarter of size are the points of the least weight, and the others' follow.
func newRing[I Instance](set Set[I], size int) points {
	if size <= 0 {
		size = defaultRingSize
	}
	n := len(set.Instances)
	if n == 0 {
		return points{}
	}
	least, sum := weightOf(set.Weights, 0), 0.0
	for i := range n {
		least = min(least, weightOf(set.Weights, i))
		sum += float64(weightOf(set.Weights, i))
	}
	perWeight := float64((size+3)/4) / float64(least)
	perWeight = min(perWeight, maxRingSize/sum)

	type point struct {
		hash  uint64
		owner uint32
	}
	all := make([]point, 0, int(perWeight*sum)+n)
	var name []byte
	for i, instance := range set.Instances {
		name = append(append(name[:0], instance.HashKey()...), '_')
		key := len(name)
		for k := range max(1, int(perWeight*float64(weightOf(set.Weights, i))+0.5)) {
			name = strconv.AppendInt(name[:key], int64(k), 10)
			all = append(all, point{xxhash.Sum64(name), uint32(i)})
		}
	}
	slices.SortFunc(all, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.owner, b.owner))
	})
	p := points{owners: make([]uint32, len(all)), hashes: make([]uint64, len(all))}
	for i, at := range all {
		p.owners[i], p.hashes[i] = at.owner, at.hash
	}
	return p
}

// newMaglev fills a table: the instances take its free slots in turn, each in a
// random order of its own, and the heavier the more often.
func newMaglev[I Instance](set Set[I], size int) points {
	if size <= 0 {
		size = defaultTableSize
	}
	for !prime(size) { // else a filler might never come to a free slot
		size++
	}
	if len(set.Instances) == 0 {
		return points{}
	}
	type filler struct {
		slot, step uint64 // where it looks next, and how far it goes on from there
		weight     uint64
		taken      uint64
		key        string
		owner      uint32
	}
	fillers := make([]filler, len(set.Instances))
	seed := xxhash.NewWithSeed(1)
	for i, instance := range set.Instances {
		key := instance.HashKey()
		seed.ResetWithSeed(1)
		_, _ = seed.WriteString(key)
		fillers[i] = filler{
			slot: xxhash.Sum64String(key) % uint64(size), step: seed.Sum64()%uint64(size-1) + 1,
			weight: uint64(weightOf(set.Weights, i)), key: key, owner: uint32(i),
		}
	}
	// The order in which the registry names them must not matter.
	slices.SortFunc(fillers, func(a, b filler) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.owner, b.owner))
	})

	const free = ^uint32(0)
	p := points{owners: make([]uint32, size)}
	for i := range p.owners {
		p.owners[i] = free
	}
	// Whose turn it is: who has taken the least for its weight. A heap, as with one
	// heavy instance among thousands nearly all turns are that one's.
	less := func(a, b uint32) bool {
		x, y := fillers[a].taken*fillers[b].weight, fillers[b].taken*fillers[a].weight
		return x < y || x == y && a < b
	}
	turns := make([]uint32, len(fillers)) // in order, and so a heap
	for i := range turns {
		turns[i] = uint32(i)
	}
	equal := !slices.ContainsFunc(fillers, func(f filler) bool { return f.weight != fillers[0].weight })
	for k := range size {
		turn := turns[0]
		if equal { // which comes to the same, and is quicker
			turn = uint32(k % len(fillers))
		}
		f := &fillers[turn]
		for p.owners[f.slot] != free {
			if f.slot += f.step; f.slot >= uint64(size) {
				f.slot -= uint64(size)
			}
		}
		p.owners[f.slot] = f.owner
		if f.taken++; !equal {
			siftDown(turns, less)
		}
	}
	return p
}

// prime reports whether n is a prime number greater than 2.
func prime(n int) bool {
	if n < 3 || n%2 == 0 {
		return false
	}
	for d := 3; d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// siftDown restores a heap whose first element has become larger.
func siftDown(heap []uint32, less func(a, b uint32) bool) {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && less(heap[child+1], heap[child]) {
			child++
		}
		if !less(heap[child], heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}
