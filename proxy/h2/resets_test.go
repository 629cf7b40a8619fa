package h2

import "testing"

func TestResetSet(t *testing.T) {
	t.Parallel()
	r := resetSet{limit: 100}
	for id := uint32(1); id < 2000; id += 2 {
		r.add(id)
		if !r.has(id) {
			t.Fatalf("%d was forgotten at once", id)
		}
		if n := len(r.ids); n > 100 {
			t.Fatalf("%d are remembered", n)
		}
	}
	r.remove(1999)
	if r.has(1999) || r.has(2001) {
		t.Error("what was removed, or never added, is there")
	}
}
