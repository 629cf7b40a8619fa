package hpack

// fieldRef names a table entry without counting from the newest as an index does: 1 to staticLen
// are the static table's indexes, above that comes the slot in the dynamic table's ring. 0 is none.
type fieldRef uint32

// fieldOrder remembers which field followed which in the blocks encoded so far, so that an encoder
// mostly knows the next field before it sees it, and need not hash it. It only ever suggests: its
// user compares.
type fieldOrder struct {
	after []fieldRef // by the field before; [0] is for a block's first
	last  fieldRef
}

// begin starts a block.
func (o *fieldOrder) begin() { o.last = 0 }

// expected returns what followed the block's last noted field the last time, 0 if nothing did.
func (o *fieldOrder) expected() fieldRef {
	if int(o.last) < len(o.after) {
		return o.after[o.last]
	}
	return 0
}

// confirm says that the expected field came.
func (o *fieldOrder) confirm(r fieldRef) { o.last = r }

// note says that this field came, which was not expected.
func (o *fieldOrder) note(r fieldRef) {
	if n := int(o.last); n >= len(o.after) {
		o.after = append(o.after, make([]fieldRef, max(n, staticLen)+1-len(o.after))...)
	}
	o.after[o.last] = r
	o.last = r
}
