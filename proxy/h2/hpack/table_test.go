package hpack

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestTableProperty compares the ring with a plain list, newest first.
func TestTableProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		table := dynamicTable{maxSize: 4096, newest: rapid.Uint32().Draw(t, "newest")}
		var model []Field
		shrink := func(n uint32) {
			for b := (Block{Fields: model}); b.Size() > n; b.Fields = model {
				model = model[:len(model)-1]
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				e := entry{name: "n", value: rapid.StringN(0, 40, -1).Draw(t, "value")}
				if !table.fits(uint64(e.size())) {
					return
				}
				table.add(e)
				shrink(table.maxSize - e.size())
				model = slices.Insert(model, 0, Field{Name: e.name, Value: e.value})
			},
			"size": func(t *rapid.T) {
				n := rapid.SampledFrom([]uint32{0, 33, 34, 100, 1000, 4096}).Draw(t, "size")
				table.setMaxSize(n)
				shrink(n)
			},
			"clear": func(*rapid.T) {
				table.clear()
				model = nil
			},
			"": func(t *rapid.T) {
				requireEqual(t, tableOf(&table), model)
				if table.at(uint64(len(model))) != nil {
					t.Fatalf("there is an entry beyond the last")
				}
				if want := (&Block{Fields: model}).Size(); table.size != want {
					t.Fatalf("size is %d, want %d", table.size, want)
				}
				used := 0
				for _, e := range table.ring {
					if e != (entry{}) {
						used++
					}
				}
				if used != len(model) {
					t.Fatalf("%d slots hold strings, for %d entries", used, len(model))
				}
				if table.maxSize == 0 && table.ring != nil {
					t.Fatalf("a table of no size keeps its ring")
				}
			},
		})
	})
}

// TestIndexFindsEveryName: many names, some in one bucket, in the way of none.
func TestIndexFindsEveryName(t *testing.T) {
	t.Parallel()
	var table indexedTable
	table.setMaxSize(1 << 14)
	var names []string
	for i := range 100 {
		name := fmt.Sprint("x-", i)
		names = append(names, name)
		table.insert(entry{name: name, value: "v"}, hashPair(hashName(name), "v"), hashName(name), false)
	}
	for i, name := range names {
		age, ok := table.findName(hashName(name), name)
		if want := uint32(len(names) - 1 - i); !ok || age != want {
			t.Errorf("%s is found at %d, %v; want %d", name, age, ok, want)
		}
		age, ok = table.findPair(hashPair(hashName(name), "v"), name, "v")
		if !ok || age != uint32(len(names)-1-i) {
			t.Errorf("%s=v is found at %d, %v; want %d", name, age, ok, len(names)-1-i)
		}
	}
	table.setMaxSize(0)
	if table.ring != nil || table.links != nil || table.pairs != nil || table.names != nil {
		t.Error("a table of no size keeps its memory")
	}
	if _, ok := table.findName(hashName(names[99]), names[99]); ok {
		t.Error("a table of no size has an entry")
	}
}

// TestIndexStaticNamesAreNotInTheWay: many paths must not hide a name that shares their bucket.
func TestIndexStaticNamesAreNotInTheWay(t *testing.T) {
	t.Parallel()
	const entries = 100 // in 128 buckets
	path := hashName(":path")
	name := ""
	for i := 0; name == "" || hashName(name)%128 != path%128; i++ {
		name = fmt.Sprint("x-", i)
	}
	var table indexedTable
	table.setMaxSize(1 << 14)
	table.insert(entry{name: name, value: "v"}, hashPair(hashName(name), "v"), hashName(name), false)
	for i := range entries {
		value := fmt.Sprint("/", i)
		table.insert(entry{name: ":path", value: value}, hashPair(path, value), path, true)
	}
	if age, ok := table.findName(hashName(name), name); !ok || age != entries {
		t.Errorf("%s is found at %d, %v; want %d", name, age, ok, entries)
	}
}
