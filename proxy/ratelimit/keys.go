package ratelimit

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
)

const (
	// maxShards is how many locks the keys are divided among at most. Two cores
	// seldom meet at one of so many.
	maxShards = 16
	// shardKeys is how many keys are worth a lock of their own. Keys are not divided
	// evenly, and where they are few, a shard that is full while others have room
	// would forget some too early.
	shardKeys = 512
)

// keys holds a bucket for each key, at most so many: those that were used longest ago
// are forgotten.
//
// Keys are in shards by a hash with factors that nobody outside knows.
type keys struct {
	seeds   [2]maphash.Seed
	factors [2]uint64
	shards  []shard
}

// digest is what is kept of a key, so that long ones take no more memory than short ones:
// the whole of a short one, and a hash of 127 bits, with seeds that nobody outside knows,
// of others. A key that is not seen often enough to tell does not share its bucket with
// another in any likely time.
type digest [2]uint64

const (
	// shortKey is how many bytes of a key a digest has room for, beside their number.
	shortKey = 15
	// hashed is set in a digest's second half that is a hash.
	hashed = 1 << 63
)

// shard is some of the keys, from the one used last to that used longest ago.
type shard struct {
	mu          sync.Mutex
	max         int
	index       map[digest]int32
	nodes       []node
	first, last int32
}

// node is a key's bucket and its place in the order of use. Nodes hold no pointers, so
// that the garbage collector need not look at them.
type node struct {
	key        digest
	bucket     int64
	prev, next int32
}

const none = -1

func newKeys(limit int) *keys {
	n := 1
	for n < maxShards && limit/(2*n) >= shardKeys {
		n *= 2
	}
	k := &keys{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, shards: make([]shard, n)}
	for i, seed := range k.seeds {
		k.factors[i] = maphash.String(seed, "factor") | 1
	}
	for i := range k.shards {
		s := &k.shards[i]
		s.max, s.index, s.first, s.last = limit/n, map[digest]int32{}, none, none
	}
	return k
}

func (k *keys) find(key string) (*shard, digest) {
	d := k.digest(key)
	return &k.shards[(d[0]*k.factors[0]+d[1]*k.factors[1])>>32&uint64(len(k.shards)-1)], d
}

func (k *keys) digest(key string) digest {
	if len(key) > shortKey {
		return digest{maphash.String(k.seeds[0], key), maphash.String(k.seeds[1], key) | hashed}
	}
	var text [shortKey + 1]byte
	copy(text[:], key)
	text[shortKey] = byte(len(key))
	return digest{binary.LittleEndian.Uint64(text[:8]), binary.LittleEndian.Uint64(text[8:])}
}

// take is rate.take for a key's bucket: how long there is no room.
func (k *keys) take(r rate, at int64, key string) (wait int64) {
	s, d := k.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.first // of several RPCs in a row, mostly
	ok := i != none && s.nodes[i].key == d
	if !ok {
		i, ok = s.index[d]
	}
	if !ok {
		i = s.room(at)
		s.nodes[i] = node{key: d, bucket: full, prev: none, next: none}
		s.index[d] = i
		s.pushFirst(i)
	} else if i != s.first {
		s.remove(i)
		s.pushFirst(i)
	}
	next, wait := r.take(s.nodes[i].bucket, at)
	if wait <= 0 {
		s.nodes[i].bucket = next
	}
	return wait
}

// giveBack returns what a key took last, unless it was forgotten.
func (k *keys) giveBack(r rate, key string) {
	s, d := k.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.index[d]; ok {
		s.nodes[i].bucket -= r.each
	}
}

func (k *keys) len() (n int) {
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		n += len(s.index)
		s.mu.Unlock()
	}
	return n
}

// room returns a node that is free: a new one, or that of the key used longest ago,
// where there may be no more, or where its bucket is full again, so that forgetting it
// changes nothing. s.mu is held.
func (s *shard) room(at int64) int32 {
	if i := s.last; i != none && (len(s.nodes) >= s.max || s.nodes[i].bucket <= at) {
		s.remove(i)
		delete(s.index, s.nodes[i].key)
		return i
	}
	s.nodes = append(s.nodes, node{})
	return int32(len(s.nodes) - 1)
}

func (s *shard) pushFirst(i int32) {
	n := &s.nodes[i]
	n.prev, n.next = none, s.first
	if s.first != none {
		s.nodes[s.first].prev = i
	} else {
		s.last = i
	}
	s.first = i
}

func (s *shard) remove(i int32) {
	n := &s.nodes[i]
	if n.prev != none {
		s.nodes[n.prev].next = n.next
	} else {
		s.first = n.next
	}
	if n.next != none {
		s.nodes[n.next].prev = n.prev
	} else {
		s.last = n.prev
	}
}
