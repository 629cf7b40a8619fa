package hpack

import (
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// entryOverhead is what a field counts for beyond its octets (RFC 7541 section 4.1).
const entryOverhead = 32

// What Reset keeps at most. A gRPC request has some 10 to 20 fields and a few hundred octets of
// literals, so these are never in its way, while an idle pooled Block stays below 13 KiB.
const (
	maxKeptFields = 128
	maxKeptArena  = 8 << 10
)

// What a Block starts with: enough for most requests.
const (
	firstFields = 16
	firstArena  = 256
)

// maxPooledFields is how long a list may be that is used again beyond maxKeptFields, by its capacity:
// some 180 KB. Twice as many as the usual SETTINGS_MAX_HEADER_LIST_SIZE allows.
const maxPooledFields = 4608

// longLists are lists of over maxKeptFields fields, each a *[]Field, for the next one
// that gets so long. They are rare, but who sends nothing else would have the garbage
// collector fall behind.
var longLists sync.Pool

// Field is one header field.
type Field struct {
	Name, Value string
	// Sensitive: it came as "never indexed", and must be sent on as that (RFC 7541 section 6.2.3).
	Sensitive bool
	// Vetted: it went into the decoder's dynamic table, and [Decoder.Vet] said yes to it then.
	Vetted bool
}

// Size is the field's size in octets as tables and limits count it (RFC 7541 section 4.1).
func (f Field) Size() uint32 {
	return uint32(len(f.Name) + len(f.Value) + entryOverhead)
}

// Block is a list of fields and the memory that their strings live in. The zero value is ready.
//
// The strings of its fields are valid until Reset, which reuses the memory of some of them: who
// keeps one longer must clone it (strings.Clone).
type Block struct {
	Fields []Field

	// arena holds the strings of literals. When it is full a bigger one takes its place and the
	// old one lives as long as strings point into it, so strings never move.
	arena []byte

	listed int // by the last Decode
}

// Reset empties the block for the next use. Memory is kept up to a bound, so that one huge block
// does not pin it.
func (b *Block) Reset() {
	clear(b.Fields) // or a pooled block would pin what the tables have long evicted
	b.Fields = b.Fields[:0]
	if cap(b.Fields) > maxKeptFields {
		if cap(b.Fields) <= maxPooledFields {
			long := b.Fields
			longLists.Put(&long)
		}
		b.Fields = nil
	}
	if cap(b.arena) > maxKeptArena {
		b.arena = nil
	} else {
		b.arena = b.arena[:0]
	}
}

// Keep returns s, one of the strings of b, in memory that outlives Reset: a copy where Reset reuses
// its memory, which for a field that came out of the dynamic table is not the case.
func (b *Block) Keep(s string) string {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b.arena)))
	if at := uintptr(unsafe.Pointer(unsafe.StringData(s))); at >= start && at-start < uintptr(cap(b.arena)) {
		return strings.Clone(s)
	}
	return s
}

// Memory is about how many bytes the fields take: far more than came over the wire where they are
// short or came out of the table.
func (b *Block) Memory() int {
	return len(b.Fields)*int(unsafe.Sizeof(Field{})) + len(b.arena)
}

// Size is the sum of the fields' sizes in octets, which SETTINGS_MAX_HEADER_LIST_SIZE limits
// (RFC 9113 section 6.5.2).
func (b *Block) Size() uint32 {
	var n uint32
	for i := range b.Fields {
		n += b.Fields[i].Size()
	}
	return n
}

// Listed is the Size of what the last Decode added, without adding it up; the whole limit where
// that was exceeded.
func (b *Block) Listed() int { return b.listed }

// Get returns the value of the first field with this name, and whether there is one. Names are
// compared octet by octet: HTTP/2 has them in lower case.
func (b *Block) Get(name string) (string, bool) {
	for i := range b.Fields {
		if b.Fields[i].Name == name {
			return b.Fields[i].Value, true
		}
	}
	return "", false
}

// Append adds a field. Both strings are copied into the block's memory, so they may come from
// another block or from a buffer that is about to be reused.
func (b *Block) Append(name, value string) {
	room := b.reserve(len(name) + len(value))
	copy(room, name)
	copy(room[len(name):], value)
	f := b.next()
	*f = Field{Name: b.take(len(name)), Value: b.take(len(value))}
}

// next makes room for one more field and returns it, to be filled. (To append a Field that was put
// together elsewhere costs twice as much.)
func (b *Block) next() *Field {
	b.Fields = growFields(b.Fields)
	b.Fields = b.Fields[:len(b.Fields)+1]
	return &b.Fields[len(b.Fields)-1]
}

// growFields returns the fields with room for one more.
func growFields(fields []Field) []Field {
	if len(fields) < cap(fields) {
		return fields
	}
	if len(fields) >= maxKeptFields {
		if long, ok := longLists.Get().(*[]Field); ok && len(fields) < cap(*long) {
			return append(*long, fields...)
		}
	}
	return slices.Grow(fields, max(firstFields, len(fields)))
}

// reserve returns n octets of memory at the arena's end, none of them taken yet.
func (b *Block) reserve(n int) []byte {
	if cap(b.arena)-len(b.arena) < n {
		b.arena = make([]byte, 0, max(n, 2*cap(b.arena), firstArena))
	}
	return b.arena[len(b.arena) : len(b.arena)+n]
}

// take makes a string of the next n octets, which reserve gave out and the caller has filled.
func (b *Block) take(n int) string {
	if n == 0 {
		return ""
	}
	start := len(b.arena)
	b.arena = b.arena[:start+n]
	return unsafe.String(&b.arena[start], n)
}

// untake gives back every string taken since the arena had taken octets in use. None of them may be
// kept.
func (b *Block) untake(taken int) { b.arena = b.arena[:taken] }
