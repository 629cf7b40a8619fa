package hpack

import "testing"

// TestSteadyStateAllocatesNothing carries the blocks of one RPC through an encoder and a decoder.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	next := changing()
	for _, c := range []struct {
		name string
		list func(i int) []Field
	}{
		{"request", func(int) []Field { return request1S }},
		{"request with a new timeout", next},
		{"response", func(int) []Field { return response }},
		{"trailers", func(int) []Field { return trailers }},
		{"sensitive", func(int) []Field { return sensitive }},
	} {
		e, d := NewEncoder(), NewDecoder(DefaultTableSize)
		var p []byte
		var b Block
		i := 0
		allocs := testing.AllocsPerRun(1000, func() {
			// The first calls, which fill tables and buffers, are not enough to count.
			p = encodeOurs(e, p[:0], c.list(i))
			b.Reset()
			if err := d.Decode(p, 16<<10, &b); err != nil {
				t.Fatal(err)
			}
			i++
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for each block", c.name, allocs)
		}
		requireEqual(t, b.Fields, c.list(i-1))
	}
}

// TestLiteralBlockAllocatesNothing decodes blocks of peers that index nothing.
func TestLiteralBlockAllocatesNothing(t *testing.T) {
	for name, huffman := range map[string]bool{"raw": false, "huffman": true} {
		d := NewDecoder(DefaultTableSize)
		p := literalBlock(request1S, huffman)
		var b Block
		allocs := testing.AllocsPerRun(1000, func() {
			b.Reset()
			if err := d.Decode(p, 16<<10, &b); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for each block", name, allocs)
		}
	}
}

var (
	request1S = request("1S")
	sensitive = append(request("1S"), Field{Name: "authorization", Value: "Bearer secret", Sensitive: true})
)

// Who sends nothing but long lists of fields leaves little to the garbage collector.
func TestLongListsAreUsedAgain(t *testing.T) {
	var b Block
	var last *Field
	again := 0
	for range 50 {
		for range 2048 {
			b.Append("", "")
		}
		if first := &b.Fields[0]; first == last {
			again++
		} else {
			last = first
		}
		b.Reset()
	}
	if again < 10 { // under the race detector, pools forget some
		t.Errorf("of 50 long lists, %d used the memory of the one before", again)
	}
}
