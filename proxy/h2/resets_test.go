package h2

import "testing"

func TestResetSet(t *testing.T) {
	t.Parallel()
	r := resetSet{limit: 100}
	for id := uint32(1); id < 2000; id += 2 {
		r.add(id, 100)
		if !r.has(id) {
			t.Fatalf("%d was forgotten at once", id)
		}
		if n := len(r.windows); n > 100 {
			t.Fatalf("%d are remembered", n)
		}
	}
	r.remove(1999)
	if r.has(1999) || r.has(2001) {
		t.Error("what was removed, or never added, is there")
	}
	if !r.spend(1999, 1000) {
		t.Error("what is not remembered has a window")
	}
	r.add(1, 100)
	if !r.spend(1, 60) || r.spend(1, 41) || !r.spend(1, 40) || r.spend(1, 1) {
		t.Error("more or less than the window may come")
	}
}
