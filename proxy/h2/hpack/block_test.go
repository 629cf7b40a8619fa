package hpack

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestFieldSize(t *testing.T) {
	t.Parallel()
	if got := (Field{Name: "custom-key", Value: "custom-header"}).Size(); got != 55 {
		t.Errorf("size is %d, want 55 (RFC 7541 Appendix C.2.1)", got)
	}
}

func TestBlockGet(t *testing.T) {
	t.Parallel()
	var b Block
	b.Append("a", "1")
	b.Append("b", "2")
	b.Append("a", "3")
	if v, ok := b.Get("a"); v != "1" || !ok {
		t.Errorf(`a is %q, %v; want the first, "1"`, v, ok)
	}
	if v, ok := b.Get("c"); v != "" || ok {
		t.Errorf("c is %q, %v; want none", v, ok)
	}
	if got := b.Size(); got != 3*34 {
		t.Errorf("size is %d, want %d", got, 3*34)
	}
	b.Reset()
	if _, ok := b.Get("a"); ok || b.Size() != 0 {
		t.Errorf("after Reset, a is there: %v, size is %d", ok, b.Size())
	}
}

// TestBlockAppendCopies appends strings whose memory is overwritten afterwards.
func TestBlockAppendCopies(t *testing.T) {
	t.Parallel()
	var b Block
	scratch := []byte("name-value")
	name := unsafe.String(&scratch[0], 4)
	value := unsafe.String(&scratch[5], 5)
	b.Append(name, value)
	copy(scratch, "##########")
	if f := b.Fields[0]; f.Name != "name" || f.Value != "value" {
		t.Errorf("field is %v", f)
	}
}

// TestBlockStringsDoNotMove appends until the block's memory has been replaced several times.
func TestBlockStringsDoNotMove(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b Block
		for range rapid.IntRange(1, 3).Draw(t, "uses") {
			b.Reset()
			var want []Field
			for range rapid.IntRange(0, 40).Draw(t, "fields") {
				f := Field{
					Name:  strings.Repeat(rapid.StringMatching("[a-z]").Draw(t, "name"), rapid.IntRange(0, 300).Draw(t, "length")),
					Value: rapid.StringN(0, 50, -1).Draw(t, "value"),
				}
				b.Append(f.Name, f.Value)
				want = append(want, f)
			}
			if !slices.Equal(b.Fields, want) {
				t.Fatalf("fields are %v, want %v", b.Fields, want)
			}
		}
	})
}

func TestBlockResetBoundsMemory(t *testing.T) {
	t.Parallel()
	var b Block
	b.Append("x", strings.Repeat("v", maxKeptArena+1))
	for range maxKeptFields + 1 {
		b.Append("x", "v")
	}
	b.Reset()
	if cap(b.Fields) > maxKeptFields || cap(b.arena) > maxKeptArena {
		t.Errorf("Reset keeps %d fields and %d octets", cap(b.Fields), cap(b.arena))
	}

	b.Append("x", "v")
	b.Reset()
	if cap(b.Fields) == 0 || cap(b.arena) == 0 {
		t.Error("Reset keeps nothing of a small block")
	}
	if f := b.Fields[:1][0]; f != (Field{}) {
		t.Errorf("Reset leaves a reference to the strings of %v", f)
	}
}

// What Keep returns outlives Reset, wherever the string lived.
func TestKeep(t *testing.T) {
	t.Parallel()
	dec := NewDecoder(DefaultTableSize)
	enc := NewEncoder()
	var b Block
	fields := []Field{{Name: ":path", Value: "/a.B/C"}, {Name: "x-first", Value: "one"}}
	for round := range 4 { // literals at first, then of the table
		wire := enc.BeginBlock(nil)
		for _, f := range fields {
			wire = enc.AppendField(wire, f.Name, f.Value, false)
		}
		if err := dec.Decode(wire, 0, &b); err != nil {
			t.Fatal(err)
		}
		path, value, empty := b.Keep(b.Fields[0].Value), b.Keep(b.Fields[1].Value), b.Keep("")
		b.Reset()
		b.Append("xxxxxxxxxxxxxxxxxxxxxxxx", "yyyyyyyyyyyyyyyyyyyyyyyyyyy") // over the memory
		if path != "/a.B/C" || value != "one" || empty != "" {
			t.Errorf("round %d: kept %q, %q, %q", round, path, value, empty)
		}
		b.Reset()
	}
}
