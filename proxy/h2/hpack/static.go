package hpack

import "golang.org/x/net/http2/hpack"

// staticLen is the number of entries in the static table; the dynamic table's indexes start after
// it (RFC 7541 section 2.3.3).
const staticLen = 61

// staticTable is RFC 7541's Appendix A by index; index 0 is not used. The strings are those of
// golang.org/x/net, which is asked for them so that the table stands in one place only.
var staticTable = readStaticTable()

func readStaticTable() (table [staticLen + 1]entry) {
	var last hpack.HeaderField
	d := hpack.NewDecoder(0, func(f hpack.HeaderField) { last = f })
	for i := 1; i <= staticLen; i++ {
		if _, err := d.Write([]byte{patternIndexed | byte(i)}); err != nil {
			panic("hpack: golang.org/x/net's static table lacks an entry: " + err.Error())
		}
		table[i] = entry{name: last.Name, value: last.Value}
	}
	return table
}

// staticSlots is how many slots the two hash tables over the static table have: a power of two,
// twice as many as entries, so that most lookups that miss see an empty slot at once.
const staticSlots = 128

// staticSlot is one slot of an open-addressing hash table; index 0 means empty.
type staticSlot struct {
	hash  uint32
	index uint32
}

var (
	staticPairs = hashStatic(func(e entry) uint32 { return hashPair(hashName(e.name), e.value) })
	staticNames = hashStatic(func(e entry) uint32 { return hashName(e.name) })
)

func hashStatic(hash func(entry) uint32) (slots [staticSlots]staticSlot) {
	for i := uint32(1); i <= staticLen; i++ {
		h := hash(staticTable[i])
		at := h % staticSlots
		for slots[at].index != 0 {
			at = (at + 1) % staticSlots
		}
		slots[at] = staticSlot{h, i}
	}
	return slots
}

// findStaticPair returns the static table's index of the field, 0 if it has none.
func findStaticPair(hash uint32, name, value string) uint32 {
	for at := hash % staticSlots; staticPairs[at].index != 0; at = (at + 1) % staticSlots {
		if s := staticPairs[at]; s.hash == hash {
			if e := &staticTable[s.index]; e.name == name && e.value == value {
				return s.index
			}
		}
	}
	return 0
}

// findStaticName returns the lowest of the static table's indexes with the name, 0 if it has none.
func findStaticName(hash uint32, name string) uint32 {
	for at := hash % staticSlots; staticNames[at].index != 0; at = (at + 1) % staticSlots {
		if s := staticNames[at]; s.hash == hash && staticTable[s.index].name == name {
			return s.index
		}
	}
	return 0
}
