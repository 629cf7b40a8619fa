package hpack

import "unsafe"

// entry is one entry of the static or of a dynamic table.
type entry struct {
	name, value string
	vetted      bool // see Decoder.Vet
}

func (e *entry) size() uint32 { return uint32(len(e.name) + len(e.value) + entryOverhead) }

// ownEntry makes an entry whose strings live in memory of its own, in one piece. A name from the
// static table needs none.
func ownEntry(name, value string, staticName bool) entry {
	// Not name+value, nor strings.Clone: where one of two strings is empty they may return the
	// other uncopied, or an empty string that points to memory.
	n := len(name)
	if staticName {
		n = 0
	}
	memory := make([]byte, n+len(value))
	copy(memory, name[:n])
	copy(memory[n:], value)
	both := unsafe.String(unsafe.SliceData(memory), len(memory))
	if staticName {
		return entry{name: name, value: both}
	}
	return entry{name: both[:n], value: both[n:]}
}

// firstEntries is how many entries a dynamic table has room for at its first insertion. A power of
// two.
const firstEntries = 16

// dynamicTable is the dynamic table of RFC 7541 section 2.3.2, the same for both directions: a ring
// that allocates nothing before the first insertion and grows with use.
//
// Every entry has an id, one higher than that of the entry inserted before it; the entry with id i
// is ring[i % len(ring)]. Ids wrap around, so only the difference of two has a meaning.
type dynamicTable struct {
	ring    []entry // the length is a power of two, or 0
	newest  uint32  // the id of the entry inserted last
	count   uint32
	size    uint32 // the sum of the entries' sizes, in octets
	maxSize uint32
}

// setMaxSize evicts what is beyond the new maximum (RFC 7541 section 4.3).
func (t *dynamicTable) setMaxSize(n uint32) {
	t.maxSize = n
	t.evictTo(n)
	if n == 0 {
		t.ring = nil
	}
}

// at returns the entry of that age: 0 is the newest, as in the order of indexes. It returns nil if
// there is none.
func (t *dynamicTable) at(age uint64) *entry {
	if age >= uint64(t.count) {
		return nil
	}
	return t.byID(t.newest - uint32(age))
}

// byID returns the ring's slot for an id.
func (t *dynamicTable) byID(id uint32) *entry {
	return &t.ring[id&uint32(len(t.ring)-1)]
}

// fits reports whether an entry of that size can be in the table at all (RFC 7541 section 4.4).
func (t *dynamicTable) fits(size uint64) bool { return size <= uint64(t.maxSize) }

// add inserts an entry that fits, after evicting what must give way to it. The strings must not
// live in memory that is reused.
func (t *dynamicTable) add(e entry) {
	need := e.size()
	t.evictTo(t.maxSize - need)
	if int(t.count) == len(t.ring) {
		t.grow()
	}
	t.newest++
	*t.byID(t.newest) = e
	t.count++
	t.size += need
}

// clear evicts everything.
func (t *dynamicTable) clear() { t.evictTo(0) }

// evictTo evicts the oldest entries until those left are no bigger than n octets.
func (t *dynamicTable) evictTo(n uint32) {
	for t.size > n {
		e := t.byID(t.newest - (t.count - 1))
		t.size -= e.size()
		t.count--
		*e = entry{} // blocks may still hold its strings; the garbage collector knows
	}
}

func (t *dynamicTable) grow() {
	bigger := dynamicTable{ring: make([]entry, max(2*len(t.ring), firstEntries))}
	for age := range t.count {
		id := t.newest - age
		*bigger.byID(id) = *t.byID(id)
	}
	t.ring = bigger.ring
}
