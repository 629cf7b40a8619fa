package hpack

// maxChain bounds how many entries of one bucket a lookup visits. Only the values of one name that
// share a bucket of names get near it; names behind them are then sent as literals, which is always
// right.
const maxChain = 16

// links is what the index keeps beside each entry of the table.
type links struct {
	pairHash, nameHash uint32
	olderPair          uint32 // the id of the next older entry in the same bucket of pairs
	olderName          uint32 // likewise of names
}

// indexedTable is the encoder's dynamic table: one that can be searched by field and by name.
//
// It has two hash tables of ids, with chains from newer to older entries. Eviction takes the oldest
// entry, which is the last of its chains, so nothing has to be unlinked: an id that is no longer in
// the table ends the chain.
type indexedTable struct {
	dynamicTable
	links []links // as long as the ring, and by slot as it is
	// The newest id in each bucket; as long as the ring.
	pairs, names []uint32
}

// setMaxSize is dynamicTable's, and gives back the index where it gives back the ring.
func (t *indexedTable) setMaxSize(n uint32) {
	t.dynamicTable.setMaxSize(n)
	if t.ring == nil {
		t.links, t.pairs, t.names = nil, nil, nil
	}
}

// findPair returns the age of the newest entry that is this field.
func (t *indexedTable) findPair(hash uint32, name, value string) (age uint32, ok bool) {
	if t.count == 0 {
		return 0, false
	}
	mask := uint32(len(t.ring) - 1)
	id := t.pairs[hash&mask]
	for range maxChain {
		age := t.newest - id
		if age >= t.count {
			break
		}
		l := &t.links[id&mask]
		if l.pairHash == hash {
			if e := &t.ring[id&mask]; e.value == value && e.name == name {
				return age, true
			}
		}
		id = l.olderPair
	}
	return 0, false
}

// findName returns the age of the newest entry with this name, which is not in the static table.
func (t *indexedTable) findName(hash uint32, name string) (age uint32, ok bool) {
	if t.count == 0 {
		return 0, false
	}
	mask := uint32(len(t.ring) - 1)
	id := t.names[hash&mask]
	for range maxChain {
		age := t.newest - id
		if age >= t.count {
			break
		}
		l := &t.links[id&mask]
		if l.nameHash == hash && t.ring[id&mask].name == name {
			return age, true
		}
		id = l.olderName
	}
	return 0, false
}

// insert adds an entry that fits. Nobody looks here for a name that is in the static table.
func (t *indexedTable) insert(e entry, pairHash, nameHash uint32, staticName bool) {
	if staticName {
		nameHash = pairHash // or the many values of :path would be one long chain, in others' way
	}
	t.add(e)
	l := links{pairHash: pairHash, nameHash: nameHash}
	if len(t.links) != len(t.ring) {
		t.relink()
	}
	t.link(t.newest, l)
}

// relink makes the index as long as the ring, which has grown, and links all entries but the newest.
func (t *indexedTable) relink() {
	old := t.links
	t.links = make([]links, len(t.ring))
	t.pairs = make([]uint32, len(t.ring))
	t.names = make([]uint32, len(t.ring))
	for age := t.count - 1; age > 0; age-- {
		id := t.newest - age
		t.link(id, old[id&uint32(len(old)-1)])
	}
}

// link puts an entry at the front of its chains.
func (t *indexedTable) link(id uint32, l links) {
	mask := uint32(len(t.ring) - 1)
	pair, name := &t.pairs[l.pairHash&mask], &t.names[l.nameHash&mask]
	l.olderPair, l.olderName = *pair, *name
	*pair, *name = id, id
	t.links[id&mask] = l
}
