package hpack

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// kinds are how an encoded field may stand in a block.
const (
	indexed      = "indexed"
	inserted     = "inserted"
	notIndexed   = "not indexed"
	neverIndexed = "never indexed"
)

// encodeOne encodes a block of one field and says how it stands there.
func encodeOne(t *testing.T, e *Encoder, f Field) (kind string, p []byte) {
	t.Helper()
	p = e.AppendField(e.BeginBlock(nil), f.Name, f.Value, f.Sensitive)
	switch c := p[0]; {
	case c&patternIndexed != 0:
		return indexed, p
	case c&patternIndexing != 0:
		return inserted, p
	case c&patternSizeUpdate != 0:
		t.Fatalf("the block %x starts with a table size update", p)
	case c&patternNeverIndexed != 0:
		return neverIndexed, p
	}
	return notIndexed, p
}

// TestEncoderPolicy encodes the same or another value of one name again and again.
func TestEncoderPolicy(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", 4000)
	large := strings.Repeat("x", 600)
	for _, c := range []struct {
		what   string
		fields []Field
		want   []string
	}{
		{"a field of the static table", fields(":method", "POST", ":status", "200"), []string{indexed, indexed}},
		{"a field of the static table without a value", fields("authorization", ""), []string{indexed}},
		{"an unknown name, then the same field", fields("te", "trailers", "te", "trailers"), []string{inserted, indexed}},
		{
			"a static name with a stable value", fields(":path", "/a", ":path", "/a", ":path", "/a"),
			[]string{notIndexed, inserted, indexed},
		},
		{
			"an unknown name whose value changes", fields("x-id", "1", "x-id", "2", "x-id", "3", "x-id", "1"),
			[]string{inserted, notIndexed, notIndexed, indexed},
		},
		{
			"a known name's value, seen twice", fields("x-id", "1", "x-id", "2", "x-id", "2", "x-id", "2"),
			[]string{inserted, notIndexed, inserted, indexed},
		},
		{
			"content-length", fields("content-length", "1", "content-length", "2", "content-length", "3"),
			[]string{notIndexed, notIndexed, notIndexed},
		},
		{
			"the text of an error", fields("grpc-message", "a", "grpc-message", "b", "grpc-message", "a"),
			[]string{notIndexed, notIndexed, inserted},
		},
		{
			"details of an error", fields("grpc-status-details-bin", "a", "grpc-status-details-bin", "a"),
			[]string{notIndexed, inserted},
		},
		{"a large value", fields("x-token", large, "x-token", large, "x-token", large), []string{notIndexed, inserted, indexed}},
		{"a huge value", fields("x-token", huge, "x-token", huge, "x-token", huge), []string{notIndexed, notIndexed, notIndexed}},
		{
			"sensitive", []Field{{Name: "x-key", Value: "s", Sensitive: true}, {Name: "x-key", Value: "s", Sensitive: true}, {Name: ":method", Value: "POST", Sensitive: true}},
			[]string{neverIndexed, neverIndexed, neverIndexed},
		},
		{
			"sensitive, though the table has it", []Field{{Name: "x-key", Value: "s", Sensitive: false}, {Name: "x-key", Value: "s", Sensitive: true}, {Name: "x-key", Value: "s", Sensitive: false}},
			[]string{inserted, neverIndexed, indexed},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			e := NewEncoder()
			for i, f := range c.fields {
				if got, p := encodeOne(t, e, f); got != c.want[i] {
					t.Errorf("field %d is %s (%x), want %s", i+1, got, p, c.want[i])
				}
			}
		})
	}
}

// TestEncoderNamesAreIndexes: a literal's name is an index where a table has the name.
func TestEncoderNamesAreIndexes(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	encodeOne(t, e, Field{Name: "grpc-timeout", Value: "1S"})
	for _, c := range []struct {
		field Field
		want  []byte
	}{
		{Field{Name: "grpc-timeout", Value: "2S"}, []byte("\x0f\x2f\x022S")},
		{Field{Name: "content-length", Value: "5"}, []byte("\x0f\x0d\x015")},
		{Field{Name: ":path", Value: "/x"}, []byte("\x04\x02/x")},
		{Field{Name: "grpc-timeout", Value: "3S", Sensitive: true}, []byte("\x1f\x2f\x023S")},
		{Field{Name: "x", Value: "", Sensitive: true}, []byte("\x10\x01x\x00")},
	} {
		if _, p := encodeOne(t, e, c.field); !bytes.Equal(p, c.want) {
			t.Errorf("%v is %x, want %x", c.field, p, c.want)
		}
	}
}

// TestEncoderFullTable: what evicts must have been seen more often, be it a field or a name.
func TestEncoderFullTable(t *testing.T) {
	t.Parallel()
	full := func() *Encoder {
		e := NewEncoder()
		for i := range 128 {
			encodeOne(t, e, Field{Name: fmt.Sprintf("%02x", i)}) // 34 octets each
		}
		if left := e.table.maxSize - e.table.size; left >= 34 {
			t.Fatalf("the table has room for %d octets", left)
		}
		return e
	}
	for name, list := range map[string][]Field{
		"a field":                 fields(":path", "/a", ":path", "/a", ":path", "/a", ":path", "/a", ":path", "/a"),
		"a name, the same value":  fields("x-a", "1", "x-a", "1", "x-a", "1", "x-a", "1", "x-a", "1"),
		"a name, changing values": fields("x-a", "1", "x-a", "2", "x-a", "3", "x-a", "4", "x-a", "4"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := full()
			for i, want := range []string{notIndexed, notIndexed, notIndexed, inserted, indexed} {
				if got, p := encodeOne(t, e, list[i]); got != want {
					t.Errorf("time %d: %s (%x), want %s", i+1, got, p, want)
				}
			}
		})
	}
}

// TestEncoderChurn is what the policy is for: stable fields stay indexed beside ones that change
// with every RPC, and fields too many for the table do not make it turn over all the time.
func TestEncoderChurn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		paths          int
		maxInsertions  float64 // per RPC
		minIndexedPath float64 // of all RPCs
	}{
		{"one method", 1, 0.01, 0.99},
		{"30 methods", 30, 0.02, 0.95},
		{"300 methods, more than the table holds", 300, 0.25, 0.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const rpcs = 5000
			random := rand.New(rand.NewPCG(1, 2))
			e := NewEncoder()
			list := append(request(""), fields("traceparent", "", "x-request-id", "")...)
			indexedPaths, insertions, octets := 0, e.table.newest, 0
			var p []byte
			for i := range rpcs {
				n := min(int(random.ExpFloat64()*float64(c.paths)/4), c.paths-1) // some more often than others
				list[2].Value = fmt.Sprintf("/helloworld.Greeter/SayHello%d", n)
				list[9].Value = fmt.Sprintf("%du", 900000+random.IntN(100000))
				list[10].Value = fmt.Sprintf("00-%016x%016x-%016x-01", random.Uint64(), random.Uint64(), random.Uint64())
				list[11].Value = fmt.Sprintf("%016x", random.Uint64())
				p = e.BeginBlock(p[:0])
				for _, f := range list {
					before := len(p)
					p = e.AppendField(p, f.Name, f.Value, false)
					if f.Name == ":path" && p[before]&patternIndexed != 0 {
						indexedPaths++
					}
				}
				octets += len(p)
				if i == 50 {
					insertions = e.table.newest
				}
			}
			perRPC := float64(e.table.newest-insertions) / rpcs
			t.Logf("%.3f insertions and %d octets per RPC, %.0f %% of paths indexed",
				perRPC, octets/rpcs, 100*float64(indexedPaths)/rpcs)
			if perRPC > c.maxInsertions {
				t.Errorf("%.3f insertions per RPC, want at most %.3f", perRPC, c.maxInsertions)
			}
			if got := float64(indexedPaths) / rpcs; got < c.minIndexedPath {
				t.Errorf("%.2f of the paths were indexed, want at least %.2f", got, c.minIndexedPath)
			}
		})
	}
}

// TestEncoderSizeUpdates has what a block must start with after the table's size changed (RFC 7541
// section 4.2).
func TestEncoderSizeUpdates(t *testing.T) {
	t.Parallel()
	peer := func(n uint32) func(*Encoder) { return func(e *Encoder) { e.SetMaxTableSize(n) } }
	limit := func(n uint32) func(*Encoder) { return func(e *Encoder) { e.SetLimit(n) } }
	for _, c := range []struct {
		name    string
		changes []func(*Encoder)
		want    string
	}{
		{"no change", nil, ""},
		{"the default", []func(*Encoder){peer(4096)}, ""},
		{"more than our limit", []func(*Encoder){peer(65536)}, ""},
		{"0", []func(*Encoder){peer(0)}, "20"},
		{"lowered", []func(*Encoder){peer(100)}, "3f45"},
		{"lowered and raised again", []func(*Encoder){peer(100), peer(4096)}, "3f45 3fe11f"},
		{"lowered twice", []func(*Encoder){peer(100), peer(10)}, "2a"},
		{"to 0 and up", []func(*Encoder){peer(0), peer(10)}, "20 2a"},
		{"down, up, less down", []func(*Encoder){peer(10), peer(4096), peer(100)}, "2a 3f45"},
		{"raised, then lowered to what we use", []func(*Encoder){peer(65536), peer(8192)}, "3fe11f"},
		{"our limit", []func(*Encoder){limit(100)}, "3f45"},
		{"our limit above what the peer says", []func(*Encoder){limit(65536)}, ""},
		{"both raised", []func(*Encoder){limit(8192), peer(65536)}, "3fe13f"},
		{"our limit lowered and raised", []func(*Encoder){limit(0), limit(4096)}, "20 3fe11f"},
	} {
		e := NewEncoder()
		for _, change := range c.changes {
			change(e)
		}
		want := octets(t, c.want)
		if got := e.BeginBlock(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: the block starts with %x, want %x", c.name, got, want)
		}
		if got := e.BeginBlock(nil); len(got) != 0 {
			t.Errorf("%s: the next block starts with %x", c.name, got)
		}
	}
}

// TestEncoderWithoutTable: a peer that allows no table gets literals, and static indexes.
func TestEncoderWithoutTable(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	oracle := hpack.NewDecoder(0, nil)
	for range 5 {
		requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, nil)), nil)
		e.SetMaxTableSize(0)
		requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, request("1S"))), request("1S"))
		if kind, _ := encodeOne(t, e, Field{Name: "te", Value: "trailers"}); kind != notIndexed {
			t.Fatalf("a field is %s", kind)
		}
	}
	if e.table.ring != nil || e.seen != nil {
		t.Error("memory was spent on a table that must stay empty")
	}
}

// TestEncoderForgetsWithTheTable: when a table was emptied, nothing of it may be referred to.
func TestEncoderForgetsWithTheTable(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	oracle := hpack.NewDecoder(DefaultTableSize, nil)
	for _, size := range []uint32{4096, 0, 4096, 40, 4096, 200, 100, 4096} {
		e.SetMaxTableSize(size)
		for range 3 {
			requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, request("1S"))), request("1S"))
		}
	}
}

// TestEncoderForgetsOrderWithTheTable: the order of fields in a table that was larger refers to slots
// that the new one does not have.
func TestEncoderForgetsOrderWithTheTable(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	oracle := hpack.NewDecoder(DefaultTableSize, nil)
	var long []Field
	for i := range 40 {
		long = append(long, Field{Name: fmt.Sprint("x-", i), Value: "v"})
	}
	for range 2 {
		requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, long)), long)
	}
	e.SetMaxTableSize(0)
	e.SetMaxTableSize(DefaultTableSize)
	for i := range firstEntries { // each alone, so that what followed it before is not corrected
		requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, long[i:i+1])), long[i:i+1])
	}
	for i := range firstEntries {
		list := []Field{long[i], {Name: ":path", Value: "/"}}
		requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, list)), list)
	}
	if len(e.table.ring) != firstEntries {
		t.Fatalf("the table has room for %d entries, so this test proves nothing", len(e.table.ring))
	}
}

// TestEncoderManyValuesOfOneName makes the longest chains that there can be.
func TestEncoderManyValuesOfOneName(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	oracle := hpack.NewDecoder(DefaultTableSize, nil)
	for round := range 3 {
		for i := range 200 {
			list := fields("x-user", fmt.Sprint(i), ":path", fmt.Sprint("/", i), "x-user", fmt.Sprint(i))
			p := encodeOurs(e, nil, list)
			requireEqual(t, decodeXNet(t, oracle, p), list)
			if i > 0 && bytes.Contains(p, []byte("x-user")) {
				t.Fatalf("round %d, value %d: the name is a literal in %q", round, i, p)
			}
		}
	}
}

// TestEncoderExpectsTheNextField: in the steady state no field of an RPC is hashed, though requests
// to several methods, or headers and trailers, take turns.
func TestEncoderExpectsTheNextField(t *testing.T) {
	t.Parallel()
	other := request("1S")
	other[2].Value = "/helloworld.Greeter/SayBye"
	for _, c := range []struct {
		name   string
		blocks [][]Field
		misses int // each round
	}{
		{"one request", [][]Field{request("1S")}, 0},
		{"two methods, only the path surprises", [][]Field{request("1S"), other}, 2},
		{"headers and trailers, only the first field surprises", [][]Field{response, trailers}, 2},
	} {
		e := NewEncoder()
		misses := 0
		for range 5 {
			misses = 0
			for _, block := range c.blocks {
				e.BeginBlock(nil)
				for _, f := range block {
					expected := e.order.expected()
					e.AppendField(nil, f.Name, f.Value, false)
					if expected == 0 || e.order.last != expected {
						misses++
					}
				}
			}
		}
		if misses != c.misses {
			t.Errorf("%s: %d fields were not expected, want %d", c.name, misses, c.misses)
		}
	}
}
