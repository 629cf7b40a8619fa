package routing

import (
	"maps"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// An index is what a map would be, and each one stays as it was.
func TestIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x index[int]
		want := map[string]int{}
		type version struct {
			x    index[int]
			want map[string]int
		}
		var past []version
		for i := range rapid.IntRange(1, 300).Draw(t, "changes") {
			past = append(past, version{x, maps.Clone(want)})
			if rapid.IntRange(0, 20).Draw(t, "what") > 0 {
				key := strconv.Itoa(i)
				x = x.with(key, i)
				want[key] = i
				continue
			}
			divisor := rapid.IntRange(2, 5).Draw(t, "divisor")
			gone := func(_ string, v int) bool { return v%divisor == 0 }
			before := len(want)
			maps.DeleteFunc(want, gone)
			var some bool
			if x, some = x.without(gone); some != (len(want) < before) {
				t.Fatalf("says %v of %d that are gone", some, before-len(want))
			}
		}
		for _, v := range append(past, version{x, want}) {
			if got := maps.Collect(v.x.all()); !maps.Equal(got, v.want) || v.x.len() != len(v.want) {
				t.Fatalf("got %v, want %v", got, v.want)
			}
			for key, value := range v.want {
				if v.x.get(key) != value {
					t.Fatalf("%q is %d, want %d", key, v.x.get(key), value)
				}
			}
			if v.x.get("none") != 0 {
				t.Fatal("there is what there is not")
			}
		}
	})
}

// Names that callers make up cost about the same however many there are.
func TestAnIndexGrowsCheaply(t *testing.T) {
	t.Parallel()
	const entries = 10000
	var x index[*int]
	copied := 0
	for i := range entries {
		before := x
		x = x.with(strconv.Itoa(i), nil)
		copied += len(x.last)
		if len(x.most) != len(before.most) {
			copied += len(x.most)
		}
	}
	if x.len() != entries || copied > 300*entries {
		t.Errorf("%d entries were copied to add %d", copied, entries)
	}
}

func BenchmarkIndexGrows(b *testing.B) {
	for b.Loop() {
		var x index[*int]
		for i := range 10000 {
			x = x.with(strconv.Itoa(i), nil)
		}
	}
}
