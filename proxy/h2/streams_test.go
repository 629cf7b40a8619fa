package h2

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A table of streams finds what a map finds, whatever ids a peer chooses.
func TestStreamTableIsLikeAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var table streamTable
		model := map[uint32]*Stream{}
		step := rapid.SampledFrom([]uint32{2, 2, 6, 32, 4096}).Draw(t, "step")
		next := uint32(1)
		look := func() {
			for id := uint32(1); id <= next; id += step {
				if got := table.get(id); got != model[id] {
					t.Fatalf("stream %d is %p, want %p", id, got, model[id])
				}
			}
			seen := map[uint32]*Stream{}
			for s := range table.all() {
				seen[s.id] = s
			}
			if !maps.Equal(seen, model) || table.n != len(model) {
				t.Fatalf("the table has %d streams and shows %v, want %v", table.n, seen, model)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "changes") {
			switch rapid.IntRange(0, 2).Draw(t, "change") {
			case 0, 1:
				for range rapid.IntRange(1, 40).Draw(t, "more") {
					s := new(Stream)
					s.id = next
					next += step
					model[s.id] = s
					table.put(s)
				}
			default:
				leave := rapid.IntRange(0, 3).Draw(t, "leave")
				for id := uint32(1); id < next; id += step {
					if s := model[id]; s != nil && int(id/step)%4 >= leave {
						delete(model, id)
						table.remove(s)
					}
				}
			}
			look()
		}
	})
}

// A ring stays short, and one that was long is given up once it is empty.
func TestStreamTableIsBounded(t *testing.T) {
	t.Parallel()
	var table streamTable
	var all []*Stream
	for i := range 3 * maxRing {
		s := new(Stream)
		s.id = uint32(2*i + 1)
		all = append(all, s)
		table.put(s)
	}
	if len(table.ring) != maxRing || len(table.rest) != 2*maxRing {
		t.Errorf("%d streams take a ring of %d and a map of %d", len(all), len(table.ring), len(table.rest))
	}
	for _, s := range all {
		if table.get(s.id) != s {
			t.Fatalf("stream %d is not found", s.id)
		}
		table.remove(s)
		table.remove(s)
	}
	if table.ring != nil || table.rest != nil || table.get(1) != nil {
		t.Errorf("empty, it keeps a ring of %d and a map of %d", len(table.ring), len(table.rest))
	}
}

func TestStreamsThatAreOpen(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		for id := uint32(1); id < 10; id += 2 {
			r.headers(id, false, post...)
		}
		r.frames()
		do(func(b *Batch) { r.w.stream(1).s.Reset(b, Cancel) })
		r.frames()
		refs := r.c.Streams(make([]StreamRef, 1))
		if len(refs) != 5 {
			t.Fatalf("%d streams, want 4 behind the one that was there", len(refs)-1)
		}
		for _, ref := range refs[1:] {
			if ref.Stream == &r.w.stream(1).s || ref.Gen != 1 || ref.Stream.Conn() != r.c {
				t.Errorf("life %d of a stream that is not open", ref.Gen)
			}
		}
	})
}
