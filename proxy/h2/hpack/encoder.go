package hpack

// How often a field must have been seen lately to be inserted into the dynamic table. Where that
// evicts others, which may be in use, more is asked, so that values which repeat now and then
// (timeouts in milliseconds, say) do not push out those which come with every RPC.
const (
	sightingsToInsert = 2
	sightingsToEvict  = 4
)

// Encoder encodes the header blocks sent to one peer, in order.
//
// What it puts into the dynamic table adapts to the traffic, because an RPC's fields are of two
// kinds. Some come again with every RPC, and cost one octet once they are in the table. Others have
// a new value each time (grpc-timeout, traceparent, a request's id): in the table they would only
// push out the first kind, and cost both ends the work. So a field is inserted when it is seen for
// the second time within some tens of RPCs, or if it is short and the tables have not even its name;
// otherwise it is a literal without indexing, its name an index. Once the table is full it must be
// seen more often. This holds for every name: the pseudo-header fields are not treated differently.
//
// Strings are never Huffman coded. It would save a fifth to a third of a literal's octets, but the
// few literals that are left after indexing would cost either end more time than many indexed fields
// do (BenchmarkHuffmanEncode, BenchmarkHuffmanDecode).
type Encoder struct {
	table indexedTable
	seen  *sightings // nil until a field is looked for in it
	order fieldOrder

	peerMax uint32 // the peer's SETTINGS_HEADER_TABLE_SIZE
	limit   uint32 // our own

	// What the next block must announce: the smallest size since the last block, then the one that
	// holds (RFC 7541 section 4.2).
	announce bool
	smallest uint32
}

// NewEncoder returns an encoder with a table of DefaultTableSize octets.
func NewEncoder() *Encoder {
	e := &Encoder{peerMax: DefaultTableSize, limit: DefaultTableSize}
	e.table.maxSize = DefaultTableSize
	return e
}

// SetMaxTableSize takes the peer's SETTINGS_HEADER_TABLE_SIZE, in octets (4096 until it says
// otherwise). The table gets that size, but no more than our own limit, from the next block on; 0
// means that no field is ever inserted. It must not be called in the middle of a block.
func (e *Encoder) SetMaxTableSize(n uint32) {
	// A lower setting wants a table size update even if our table is smaller yet (RFC 9113 section
	// 4.3.1).
	lowered := n < e.peerMax
	e.peerMax = n
	e.resize(lowered)
}

// SetLimit sets our own limit on the table's size, in octets; the default is DefaultTableSize. It
// is memory that one connection may cost us, and the peer. It must not be called in the middle of a
// block.
func (e *Encoder) SetLimit(n uint32) {
	e.limit = n
	e.resize(false)
}

// resize makes the table as big as the peer and we allow.
func (e *Encoder) resize(announce bool) {
	n := min(e.peerMax, e.limit)
	if n == e.table.maxSize && !announce {
		return
	}
	if !e.announce || n < e.smallest {
		e.smallest = n
	}
	e.announce = true
	e.table.setMaxSize(n)
}

// BeginBlock must be called before a block's first field. It appends what the block must start
// with, mostly nothing.
//
// Once it has been called, or AppendField has, the block must be sent, and before any later one:
// both ends' tables follow what was encoded.
func (e *Encoder) BeginBlock(dst []byte) []byte {
	e.order.begin()
	if !e.announce {
		return dst
	}
	e.announce = false
	if e.smallest < e.table.maxSize {
		dst = appendInteger(dst, patternSizeUpdate, maskSizeUpdate, uint64(e.smallest))
	}
	return appendInteger(dst, patternSizeUpdate, maskSizeUpdate, uint64(e.table.maxSize))
}

// AppendField appends one field to the block in dst. The name must be in lower case. A sensitive
// field is sent as "never indexed" and does not enter the table, nor is it looked for there (RFC
// 7541 section 7.1.3).
//
// Both strings may live in memory that is reused later.
func (e *Encoder) AppendField(dst []byte, name, value string, sensitive bool) []byte {
	if !sensitive {
		// The common case, so it is all in one piece: the field that followed the last time.
		table, index := &e.table, uint32(0)
		r := e.order.expected()
		known := &staticTable[0]
		if r <= staticLen {
			index = uint32(r)
			known = &staticTable[r]
		} else if slot := uint32(r - staticLen - 1); slot < uint32(len(table.ring)) {
			age := (table.newest - slot) & uint32(len(table.ring)-1)
			if age < table.count {
				index = age + staticLen + 1
				known = &table.ring[slot]
			}
		}
		if index != 0 && known.value == value && known.name == name {
			e.order.confirm(r)
			if index < maskIndexed {
				return append(dst, patternIndexed|byte(index))
			}
			return appendInteger(dst, patternIndexed, maskIndexed, uint64(index))
		}
	}
	return e.appendUnexpected(dst, name, value, sensitive)
}

// appendUnexpected appends a field that did not follow the one before it the last time.
//
//go:noinline
func (e *Encoder) appendUnexpected(dst []byte, name, value string, sensitive bool) []byte {
	nameHash := hashName(name)
	if sensitive {
		i := e.nameIndex(nameHash, name)
		return appendLiteral(dst, patternNeverIndexed, maskLiteral, i, name, value)
	}
	hash := hashPair(nameHash, value)
	if i := findStaticPair(hash, name, value); i != 0 {
		e.order.note(fieldRef(i))
		return append(dst, patternIndexed|byte(i))
	}
	if age, ok := e.table.findPair(hash, name, value); ok {
		e.order.note(e.refTo(age))
		return appendInteger(dst, patternIndexed, maskIndexed, uint64(age)+staticLen+1)
	}
	return e.appendUnknown(dst, hash, nameHash, name, value)
}

// refTo refers to the dynamic table's entry of that age.
func (e *Encoder) refTo(age uint32) fieldRef {
	slot := (e.table.newest - age) & uint32(len(e.table.ring)-1)
	return fieldRef(slot + staticLen + 1)
}

// appendUnknown appends a field that is in neither table.
func (e *Encoder) appendUnknown(dst []byte, hash, nameHash uint32, name, value string) []byte {
	i := e.nameIndex(nameHash, name)
	nameFirst := i == 0 && !oneOff(name)
	if !e.worthInserting(nameFirst, hash, nameHash, len(name)+len(value)+entryOverhead) {
		return appendLiteral(dst, patternNotIndexed, maskLiteral, i, name, value)
	}
	dst = appendLiteral(dst, patternIndexing, maskIndexing, i, name, value)
	staticName := i != 0 && i <= staticLen
	if staticName {
		name = staticTable[i].name
	}
	e.table.insert(ownEntry(name, value, staticName), hash, nameHash, staticName)
	e.order.note(e.refTo(0))
	return dst
}

// oneOff says of a name that its values are rarely seen again, so that it is not even worth inserting
// one for the name's sake: the texts and details of errors.
func oneOff(name string) bool {
	return name == "grpc-message" || name == "grpc-status-details-bin"
}

// worthInserting decides whether a field that is in no table enters the dynamic one. With nameFirst
// it may do so for its name's sake alone.
func (e *Encoder) worthInserting(nameFirst bool, hash, nameHash uint32, size int) bool {
	// A field that takes most of the table costs all that it evicts.
	if size > int(e.table.maxSize)/4*3 {
		return false
	}
	fitsBeside := size <= int(e.table.maxSize-e.table.size)
	if nameFirst && size <= int(e.table.maxSize)/8 {
		if fitsBeside {
			return true
		}
		hash = nameHash // it is the name that must be seen again; the value may be new each time
	}
	if e.seen == nil {
		e.seen = new(sightings)
	}
	if fitsBeside {
		return e.seen.enough(hash, sightingsToInsert)
	}
	return e.seen.enough(hash, sightingsToEvict)
}

// nameIndex returns the lowest index that stands for the name, 0 if there is none.
func (e *Encoder) nameIndex(hash uint32, name string) uint64 {
	if i := findStaticName(hash, name); i != 0 {
		return uint64(i)
	}
	if age, ok := e.table.findName(hash, name); ok {
		return uint64(age) + staticLen + 1
	}
	return 0
}

// appendLiteral appends a field with a literal value (RFC 7541 section 6.2); i is the name's index,
// 0 if it has none.
func appendLiteral(dst []byte, pattern, mask byte, i uint64, name, value string) []byte {
	dst = appendInteger(dst, pattern, mask, i)
	if i == 0 {
		dst = appendInteger(dst, 0, maskString, uint64(len(name)))
		dst = append(dst, name...)
	}
	dst = appendInteger(dst, 0, maskString, uint64(len(value)))
	return append(dst, value...)
}
