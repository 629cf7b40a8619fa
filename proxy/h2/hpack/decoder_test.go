package hpack

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestDecodeErrors has what must end the connection.
func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, octets string
		want         error
	}{
		{"empty block", "", nil},
		{"index 0", "80", errIndex},
		{"last static index", "bd", nil},
		{"index beyond the static table, dynamic empty", "be", errIndex},
		{"index beyond the dynamic table", "4001610162 bf", errIndex},
		{"index of the only dynamic entry", "4001610162 be", nil},
		{"huge index", "ffffffffffffffffffff", errInteger},
		{"index above 2^32 that would wrap around to 2", "ff83ffffff0f", errIndex},
		{"literal whose name's index does not exist", "7f0001 61", errIndex},
		{"not indexed literal whose name's index does not exist", "0f2f0161", errIndex},
		{"index cut off", "ff", errTruncated},
		{"literal without a name", "40", errTruncated},
		{"literal without a value", "400161", errTruncated},
		{"indexed name without a value", "41", errTruncated},
		{"value shorter than it says", "41056162", errTruncated},
		{"name shorter than it says", "40056162", errTruncated},
		{"string length cut off", "417f", errTruncated},
		{"string longer than memory", "417fffffffffffffffff7f", errTruncated},
		{"string length too long", "417fffffffffffffffffff01", errInteger},
		{"Huffman coded value with EOS", "4184ffffffff", errHuffman},
		{"Huffman coded name with padding of zeros", "40811801 61", errHuffman},
		{"no name at all", "4000 00", nil},
		{"size update to 0", "20", nil},
		{"size update to all we allow", "3fe11f", nil},
		{"size update to one more", "3fe21f", errUpdateTooLarge},
		{"size update far above 2^32", "3fffffffffffffff7f", errUpdateTooLarge},
		{"two size updates", "203fe11f", nil},
		{"two size updates, then fields", "203fe11f82", nil},
		{"two size updates, the first not 0, entries left", "3f21 3fe11f", nil},
		{"three size updates", "202020", errUpdateCount},
		{"size update after a field", "8220", errUpdatePlace},
		{"size update after a literal", "00016101 62 20", errUpdatePlace},
		{"size update after an update and a field", "20823f01", errUpdatePlace},
		{"size update cut off", "3f", errTruncated},
		{"size update too long", "3fffffffffffffffffff01", errInteger},
	} {
		d := NewDecoder(DefaultTableSize)
		var b Block
		if err := d.Decode(octets(t, c.octets), 0, &b); !errors.Is(err, c.want) {
			t.Errorf("%s: error is %v, want %v", c.name, err, c.want)
		}
	}
}

// TestDecodeTruncated cuts a good block everywhere: only between fields may it end.
func TestDecodeTruncated(t *testing.T) {
	t.Parallel()
	list := append(request("1S"), Field{Name: "authorization", Value: strings.Repeat("x", 200), Sensitive: true})
	e := NewEncoder()
	p := e.BeginBlock(nil)
	ends := map[int]bool{0: true}
	for _, f := range list {
		p = e.AppendField(p, f.Name, f.Value, f.Sensitive)
		ends[len(p)] = true
	}
	for n := range len(p) + 1 {
		var b Block
		err := NewDecoder(DefaultTableSize).Decode(p[:n], 0, &b)
		if ends[n] && err != nil || !ends[n] && !errors.Is(err, errTruncated) {
			t.Errorf("the first %d octets of %d: error is %v", n, len(p), err)
		}
	}
}

// TestDecodeEviction has RFC 7541 sections 4.3 and 4.4.
func TestDecodeEviction(t *testing.T) {
	t.Parallel()
	d := NewDecoder(DefaultTableSize)
	var b Block
	add := func(p []byte, name, value string) []byte {
		return appendLiteral(p, patternIndexing, maskIndexing, 0, name, value)
	}
	decode := func(p []byte) {
		t.Helper()
		b.Reset()
		if err := d.Decode(p, 0, &b); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(what string, want ...string) {
		t.Helper()
		if got := tableOf(&d.table); !slices.Equal(got, fields(want...)) {
			t.Errorf("%s: table is %v, want %v", what, got, fields(want...))
		}
	}

	// Three entries of 34 octets fill a table of 102.
	p := appendInteger(nil, patternSizeUpdate, maskSizeUpdate, 102)
	p = add(add(add(p, "a", "1"), "b", "2"), "c", "3")
	decode(p)
	holds("full", "c", "3", "b", "2", "a", "1")
	decode(add(nil, "d", "4"))
	holds("one more", "d", "4", "c", "3", "b", "2")
	decode(add(nil, "e", "55"))
	holds("a bigger one takes the place of two", "e", "55", "d", "4")

	// An entry may be named by one that it evicts (section 4.4).
	decode(appendLiteral(nil, patternIndexing, maskIndexing, 63, "", strings.Repeat("x", 69)))
	holds("named by what it evicts", "d", strings.Repeat("x", 69))
	if f := b.Fields[0]; f.Name != "d" {
		t.Errorf("field is %v", f)
	}

	decode(append(add(nil, "f", strings.Repeat("y", 70)), 0x82))
	holds("an entry larger than the table empties it")
	if len(b.Fields) != 2 || b.Fields[0].Name != "f" || b.Fields[0].Value != strings.Repeat("y", 70) {
		t.Errorf("the field itself is %v", b.Fields)
	}

	decode(add(add(nil, "a", "1"), "b", "2"))
	decode(appendInteger(nil, patternSizeUpdate, maskSizeUpdate, 67))
	holds("made smaller", "b", "2")
	decode(appendInteger(nil, patternSizeUpdate, maskSizeUpdate, 0))
	holds("made empty")
	decode(add(nil, "a", "1"))
	holds("of no size")
	if len(b.Fields) != 1 || b.Fields[0].Value != "1" {
		t.Errorf("the field itself is %v", b.Fields)
	}
	if d.table.size != 0 {
		t.Errorf("size is %d, want 0", d.table.size)
	}
}

// TestDecodeStartsWithDefaultTable: our SETTINGS may reach the peer after it has sent its first blocks.
func TestDecodeStartsWithDefaultTable(t *testing.T) {
	t.Parallel()
	d := NewDecoder(0)
	var b Block
	if err := d.Decode(octets(t, "4001610162 be"), 0, &b); err != nil {
		t.Fatalf("before the peer knows our setting: %v", err)
	}
	if err := d.Decode(octets(t, "20 82"), 0, &b); err != nil {
		t.Fatalf("when it knows: %v", err)
	}
	if err := d.Decode(octets(t, "21"), 0, &b); !errors.Is(err, errUpdateTooLarge) {
		t.Errorf("an update above our setting: error is %v", err)
	}
}

// TestDecodeNameOutlivesBlock: an entry with an empty value must not live in the block's memory.
func TestDecodeNameOutlivesBlock(t *testing.T) {
	t.Parallel()
	d := NewDecoder(DefaultTableSize)
	var b Block
	for _, p := range []string{"40 03616263 00", "40 00 03646566", "54 03676869", "00 03232323 03232323"} {
		b.Reset()
		if err := d.Decode(octets(t, p), 0, &b); err != nil {
			t.Fatal(err)
		}
	}
	want := fields("accept-charset", "ghi", "", "def", "abc", "")
	want[0].Name = staticTable[20].name
	if got := tableOf(&d.table); !slices.Equal(got, want) {
		t.Errorf("table is %v, want %v", got, want)
	}
}

// TestDecodeInsertedFieldsUseNoBlockMemory: their strings are the table's.
func TestDecodeInsertedFieldsUseNoBlockMemory(t *testing.T) {
	t.Parallel()
	for _, length := range []int{1, firstArena - 1, 2 * firstArena, 3000} {
		d := NewDecoder(DefaultTableSize)
		var b Block
		p := appendLiteral(nil, patternIndexing, maskIndexing, 0, "some-name", strings.Repeat("x", length))
		if err := d.Decode(slices.Concat(p, p, p), 0, &b); err != nil {
			t.Fatal(err)
		}
		if len(b.arena) != 0 {
			t.Errorf("values of %d octets: %d octets of the block's memory are in use", length, len(b.arena))
		}
		b.Append("a", "literal after them")
		requireEqual(t, b.Fields[3:], fields("a", "literal after them"))
		requireEqual(t, b.Fields[:1], fields("some-name", strings.Repeat("x", length)))
	}
}

func TestDecodeListLimit(t *testing.T) {
	t.Parallel()
	d := NewDecoder(DefaultTableSize)
	var b Block
	list := fields("a", "1", "b", "22", "c", "3") // 34, 35 and 34 octets
	var p []byte
	for _, f := range list {
		p = appendLiteral(p, patternNotIndexed, maskLiteral, 0, f.Name, f.Value)
	}
	for _, c := range []struct {
		limit uint32
		kept  int
	}{{0, 3}, {103, 3}, {102, 2}, {69, 2}, {68, 1}, {34, 1}, {33, 0}, {1, 0}} {
		b.Reset()
		err := d.Decode(p, c.limit, &b)
		if want := c.kept < len(list); errors.Is(err, ErrListTooLarge) != want || !want && err != nil {
			t.Errorf("limit %d: error is %v", c.limit, err)
		}
		if !slices.Equal(b.Fields, list[:c.kept]) {
			t.Errorf("limit %d: fields are %v, want the first %d", c.limit, b.Fields, c.kept)
		}
	}

	// What follows a field that is too large is not kept either, even if it is smaller.
	b.Reset()
	err := d.Decode(p, 68, &b)
	if !errors.Is(err, ErrListTooLarge) || len(b.Fields) != 1 {
		t.Errorf("error is %v, fields are %v", err, b.Fields)
	}

	// The limit is on the decoded block, not on what b held before.
	b.Reset()
	b.Append("mine", strings.Repeat("x", 1000))
	if err := d.Decode(p, 103, &b); err != nil {
		t.Errorf("with a field of our own in the block: %v", err)
	}
}

// TestDecodeKeepsTableRightBeyondLimit decodes twice, once with a limit, and compares the tables.
func TestDecodeKeepsTableRightBeyondLimit(t *testing.T) {
	t.Parallel()
	huffman := func(s string) []byte { return appendTestString(nil, s, true) }
	for name, p := range map[string][]byte{
		"raw":              appendLiteral(nil, patternIndexing, maskIndexing, 0, "name", "value"),
		"huffman":          slices.Concat([]byte{patternIndexing}, huffman("name"), huffman("value")),
		"static name":      appendLiteral(nil, patternIndexing, maskIndexing, 4, "", "/x"),
		"too large":        appendLiteral(nil, patternIndexing, maskIndexing, 4, "", strings.Repeat("x", 5000)),
		"huffman, large":   slices.Concat([]byte{patternIndexing | 4}, huffman(strings.Repeat("x", 4000))),
		"huffman, too big": slices.Concat([]byte{patternIndexing | 4}, huffman(strings.Repeat("x", 4100))),
		"not indexed":      appendLiteral(nil, patternNotIndexed, maskLiteral, 4, "", "/x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := slices.Concat(octets(t, "4001610162"), p, octets(t, "4001630164"))
			free, limited := NewDecoder(DefaultTableSize), NewDecoder(DefaultTableSize)
			var b Block
			if err := free.Decode(p, 0, &b); err != nil {
				t.Fatal(err)
			}
			b.Reset()
			if err := limited.Decode(p, 34, &b); !errors.Is(err, ErrListTooLarge) {
				t.Fatalf("error is %v", err)
			}
			if got, want := tableOf(&limited.table), tableOf(&free.table); !slices.Equal(got, want) {
				t.Errorf("table is %v, want %v", got, want)
			}
			if !slices.Equal(b.Fields, fields("a", "b")) {
				t.Errorf("fields are %v", b.Fields)
			}
		})
	}
}

// TestDecodeErrorsBeyondLimit: a block that is refused for its size must still be sound.
func TestDecodeErrorsBeyondLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		octets string
		want   error
	}{
		{"82 80", errIndex},
		{"82 0081180161", errHuffman},
		{"82 00016184ffffffff", errHuffman},
		{"82 04", errTruncated},
	} {
		var b Block
		if err := NewDecoder(4096).Decode(octets(t, c.octets), 1, &b); !errors.Is(err, c.want) {
			t.Errorf("%s: error is %v, want %v", c.octets, err, c.want)
		}
	}
}

// TestDecodeBombsCostNoMemory decodes blocks that are small but have large lists, beyond the limit.
func TestDecodeBombsCostNoMemory(t *testing.T) {
	const limit = 16 << 10
	entry := appendLiteral(nil, patternIndexing, maskIndexing, 0, "bomb", strings.Repeat("x", 4000))
	indexed := strings.Repeat("\xbe", 1<<16) // each refers to 4 KiB
	literals := strings.Repeat(string(appendLiteral(nil, patternNotIndexed, maskLiteral, 62, "", strings.Repeat("y", 100))), 1000)
	huffman := "\x04" + string(appendTestString(nil, strings.Repeat("a", 1<<20), true))
	inserted := strings.Repeat(string(appendLiteral(nil, patternIndexing, maskIndexing, 4, "", strings.Repeat("z", 5000))), 100)
	for name, bomb := range map[string]string{
		"indexed": indexed, "literals": literals, "huffman": huffman, "too large for the table": inserted,
	} {
		d := NewDecoder(DefaultTableSize)
		var b Block
		if err := d.Decode(entry, 0, &b); err != nil {
			t.Fatal(err)
		}
		p := []byte(bomb)
		for range 2 {
			b = Block{}
			if err := d.Decode(p, limit, &b); !errors.Is(err, ErrListTooLarge) {
				t.Fatalf("%s: error is %v", name, err)
			}
			if got := b.Size(); got > limit {
				t.Errorf("%s: the list has %d octets, the limit is %d", name, got, limit)
			}
			if got := cap(b.arena); got > 2*limit {
				t.Errorf("%s: the block has %d octets of memory", name, got)
			}
			if got := cap(b.Fields) * 40; got > 4*limit {
				t.Errorf("%s: the block has %d octets of fields", name, got)
			}
			if name == "too large for the table" {
				break // it emptied the table, so there is nothing left to refer to
			}
		}
	}
}

// TestDecodeIdsWrapAround inserts across the highest id.
func TestDecodeIdsWrapAround(t *testing.T) {
	t.Parallel()
	d := NewDecoder(DefaultTableSize)
	d.table.newest = ^uint32(0) - 20
	oracle := hpack.NewDecoder(DefaultTableSize, nil)
	e := newXNetEncoder()
	var b Block
	for i := range 60 {
		p := e.encode(t, fields("name", strings.Repeat("v", i), "a", "b"))
		b.Reset()
		if err := d.Decode(p, 0, &b); err != nil {
			t.Fatal(err)
		}
		requireEqual(t, b.Fields, decodeXNet(t, oracle, p))
	}
}

// A field is asked about when it enters the table, and only then; what was said comes
// with it each time.
func TestVet(t *testing.T) {
	t.Parallel()
	d := NewDecoder(DefaultTableSize)
	asked := 0
	d.Vet = func(name, value string) bool { asked++; return name == "good" && value == "v" }
	good := []byte{patternIndexing, 4, 'g', 'o', 'o', 'd', 1, 'v'}
	bad := []byte{patternIndexing, 3, 'b', 'a', 'd', 1, 'v'}
	plain := []byte{patternNotIndexed, 4, 'g', 'o', 'o', 'd', 1, 'v'}
	static := byte(patternIndexed | 2)
	block := slices.Concat(good, bad, plain, []byte{patternIndexed | 63, patternIndexed | 62, static, patternIndexing | 1, 1, 'w'})
	want := []Field{
		{Name: "good", Value: "v", Vetted: true}, {Name: "bad", Value: "v"}, {Name: "good", Value: "v"},
		{Name: "good", Value: "v", Vetted: true}, {Name: "bad", Value: "v"}, {Name: ":method", Value: "GET"},
		{Name: ":authority", Value: "w"},
	}
	var b Block
	if err := d.Decode(block, 0, &b); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.Fields, want) || asked != 3 {
		t.Errorf("fields %+v, want %+v; asked %d times, want 3", b.Fields, want, asked)
	}
	b.Reset()
	b.Append("good", "v")
	if b.Fields[0].Vetted {
		t.Error("a field that was appended has what was said of another")
	}
}
