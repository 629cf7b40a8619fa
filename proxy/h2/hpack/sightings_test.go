package hpack

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// hash makes the hash of the i-th field of a set.
func sightingHash(set, i uint32) uint32 { return i<<8 | set }

func TestSightingsCount(t *testing.T) {
	t.Parallel()
	var s sightings
	for i, want := range []bool{false, false, false, true, false, false, false, true} {
		if got := s.enough(sightingHash(3, 7), 4); got != want {
			t.Errorf("time %d: %v, want %v", i+1, got, want)
		}
	}
}

// TestSightingsShareASet: as many fields as a set holds are counted though they take turns, one more
// and each has been forgotten when its turn comes.
func TestSightingsShareASet(t *testing.T) {
	t.Parallel()
	for fields, want := range map[uint32]bool{sightingWays: true, sightingWays + 1: false} {
		var s sightings
		for round := range 3 {
			for i := range fields {
				got := s.enough(sightingHash(5, 1+i), 3)
				if got != (want && round == 2) {
					t.Errorf("%d fields, field %d, time %d: %v", fields, i, round+1, got)
				}
			}
		}
	}
}

// TestSightingsProperty compares a set with a plain list in order of use.
func TestSightingsProperty(t *testing.T) {
	t.Parallel()
	type seen struct{ field, count uint32 }
	rapid.Check(t, func(t *rapid.T) {
		var s sightings
		var model []seen
		n := rapid.Uint32Range(2, 5).Draw(t, "n")
		for _, field := range rapid.SliceOf(rapid.Uint32Range(1, 7)).Draw(t, "fields") {
			now := seen{field, 1}
			if i := slices.IndexFunc(model, func(m seen) bool { return m.field == field }); i >= 0 {
				now.count += model[i].count
				model = slices.Delete(model, i, i+1)
			}
			want := now.count >= n
			if want {
				now.count = 0
			}
			model = slices.Insert(model, 0, now)
			model = model[:min(len(model), sightingWays)]
			if got := s.enough(sightingHash(9, field), n); got != want {
				t.Fatalf("field %d: %v, want %v", field, got, want)
			}
		}
	})
}
