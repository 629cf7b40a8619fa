package hpack

import "testing"

func TestFieldOrder(t *testing.T) {
	t.Parallel()
	var o fieldOrder
	// Blocks as refs; between the refs, what was expected in their place.
	for i, block := range []struct{ came, expected []fieldRef }{
		{[]fieldRef{3, 70, 8}, []fieldRef{0, 0, 0}},
		{[]fieldRef{3, 70, 8}, []fieldRef{3, 70, 8}},
		{[]fieldRef{3, 71, 8}, []fieldRef{3, 70, 0}},
		{[]fieldRef{3, 71, 8}, []fieldRef{3, 71, 8}},
		{[]fieldRef{70, 8}, []fieldRef{3, 8}}, // trailers, say
		{[]fieldRef{3, 71, 8, 9}, []fieldRef{70, 71, 8, 0}},
		{[]fieldRef{3, 71, 8, 9}, []fieldRef{3, 71, 8, 9}},
	} {
		o.begin()
		for j, came := range block.came {
			expected := o.expected()
			if expected != block.expected[j] {
				t.Errorf("block %d, field %d: %d is expected, want %d", i+1, j+1, expected, block.expected[j])
			}
			if expected == came {
				o.confirm(came)
			} else {
				o.note(came)
			}
		}
	}
}
