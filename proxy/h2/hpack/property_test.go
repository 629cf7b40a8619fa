package hpack

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// fatal is what *testing.T, *testing.B and *rapid.T have in common.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// xnetEncoder is golang.org/x/net's, one block at a time.
type xnetEncoder struct {
	*hpack.Encoder
	out *bytes.Buffer
}

func newXNetEncoder() xnetEncoder {
	out := new(bytes.Buffer)
	return xnetEncoder{hpack.NewEncoder(out), out}
}

func (e xnetEncoder) encode(t fatal, list []Field) []byte {
	t.Helper()
	e.out.Reset()
	for _, f := range list {
		if err := e.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive}); err != nil {
			t.Fatalf("x/net encodes: %v", err)
		}
	}
	return e.out.Bytes()
}

// decodeXNet decodes one block with golang.org/x/net.
func decodeXNet(t fatal, d *hpack.Decoder, p []byte) []Field {
	t.Helper()
	list, err := tryDecodeXNet(d, p)
	if err != nil {
		t.Fatalf("x/net decodes %x: %v", p, err)
	}
	return list
}

// tryDecodeXNet decodes one block with golang.org/x/net. It gives it the table size updates at the
// start one by one, since it takes a second one for misplaced unless the first emptied the table.
func tryDecodeXNet(d *hpack.Decoder, p []byte) ([]Field, error) {
	var list []Field
	d.SetEmitFunc(func(f hpack.HeaderField) {
		list = append(list, Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
	})
	for len(p) > 0 && p[0]&^maskSizeUpdate == patternSizeUpdate {
		_, rest, err := readInteger(p, maskSizeUpdate)
		if err != nil {
			break
		}
		if _, err := d.Write(p[:len(p)-len(rest)]); err != nil {
			return nil, err
		}
		if err := d.Close(); err != nil {
			return nil, err
		}
		p = rest
	}
	if _, err := d.Write(p); err != nil {
		return nil, err
	}
	return list, d.Close()
}

func requireEqual(t fatal, got, want []Field) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("fields are\n%v, want\n%v", got, want)
	}
}

// drawList draws fields as they come again and again, some with values that differ, some large.
func drawList(t *rapid.T) []Field {
	names := rapid.SampledFrom([]string{
		":method", ":path", ":status", ":authority", "content-type", "grpc-timeout", "te", "user-agent",
		"x-a", "x-b", "x-c", "grpc-message", "authorization", "accept-encoding", "",
	})
	name := rapid.OneOf(names, names, names, names, rapid.StringMatching(`[a-z]{1,12}`))
	value := rapid.OneOf(
		rapid.SampledFrom([]string{"", "GET", "POST", "/", "200", "trailers", "application/grpc", "gzip, deflate"}),
		rapid.StringMatching(`[ab]{1,2}`),
		rapid.StringMatching(`[ -~]{0,60}`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(p []byte) string { return string(p) }),
		rapid.Map(rapid.IntRange(0, 5000), func(n int) string { return strings.Repeat("x", n) }),
	)
	field := rapid.Custom(func(t *rapid.T) Field {
		return Field{Name: name.Draw(t, "name"), Value: value.Draw(t, "value"), Sensitive: rapid.IntRange(0, 9).Draw(t, "sensitive") == 0}
	})
	return rapid.SliceOfN(field, 0, 12).Draw(t, "list")
}

var tableSizes = rapid.OneOf(
	rapid.SampledFrom([]uint32{0, 1, 33, 64, 100, 300, 4095, 4096, 4097, 65536}),
	rapid.Uint32Range(0, 10000),
)

// TestEncoderProperty: whatever our encoder writes, golang.org/x/net's decoder and our own read as
// it was, block after block, while both ends change the table's size; and the tables stay equal.
func TestEncoderProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := NewEncoder()
		oracle := hpack.NewDecoder(DefaultTableSize, nil)
		d := NewDecoder(DefaultTableSize)
		var (
			b       Block
			scratch []byte
			peerMax = uint32(DefaultTableSize)
			again   []Field
		)
		if rapid.IntRange(0, 9).Draw(t, "wrap") == 0 {
			e.table.newest = ^uint32(0) - rapid.Uint32Range(0, 40).Draw(t, "ids left")
		}
		for range rapid.IntRange(1, 40).Draw(t, "blocks") {
			for range rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2, 3}).Draw(t, "changes") {
				n := tableSizes.Draw(t, "size")
				if rapid.Bool().Draw(t, "by the peer") {
					e.SetMaxTableSize(n)
					peerMax = n
					oracle.SetAllowedMaxDynamicTableSize(n)
					d.allowedTable = n
				} else {
					e.SetLimit(n)
				}
			}
			list := again
			if again == nil || rapid.IntRange(0, 2).Draw(t, "new") == 0 {
				list = drawList(t)
				again = list
			}

			// The encoder's input lives in memory that is overwritten afterwards.
			p := e.BeginBlock(nil)
			for _, f := range list {
				scratch = append(append(scratch[:0], f.Name...), f.Value...)
				name := unsafe.String(unsafe.SliceData(scratch), len(f.Name))
				value := unsafe.String(unsafe.SliceData(scratch[len(f.Name):]), len(f.Value))
				p = e.AppendField(p, name, value, f.Sensitive)
				for i := range scratch {
					scratch[i] = '#'
				}
			}

			requireEqual(t, decodeXNet(t, oracle, p), list)
			b.Reset()
			if err := d.Decode(p, 0, &b); err != nil {
				t.Fatalf("%x: %v", p, err)
			}
			requireEqual(t, b.Fields, list)
			requireEqual(t, tableOf(&d.table), tableOf(&e.table.dynamicTable))
			if e.table.size > min(peerMax, e.limit) {
				t.Fatalf("the table has %d octets; the peer allows %d, we %d", e.table.size, peerMax, e.limit)
			}
		}
	})
}

// TestDecoderProperty: whatever golang.org/x/net's encoder writes, our decoder reads as it was; with
// a limit it reads the same beginning and keeps the same table.
func TestDecoderProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := newXNetEncoder()
		maxTable := tableSizes.Draw(t, "our table size")
		e.SetMaxDynamicTableSizeLimit(maxTable)
		d, limited := NewDecoder(maxTable), NewDecoder(maxTable)
		var b, short Block
		var kept, want []Field // of all blocks since the last Reset
		for range rapid.IntRange(1, 30).Draw(t, "blocks") {
			for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "changes") {
				e.SetMaxDynamicTableSize(tableSizes.Draw(t, "size"))
			}
			list := drawList(t)
			p := bytes.Clone(e.encode(t, list))

			if rapid.Bool().Draw(t, "reset") {
				b.Reset()
				want = nil
			}
			if err := d.Decode(p, 0, &b); err != nil {
				t.Fatalf("%x: %v", p, err)
			}
			want = append(want, list...)
			requireEqual(t, b.Fields, want)

			limit := rapid.Uint32Range(1, 2000).Draw(t, "limit")
			short.Reset()
			err := limited.Decode(p, limit, &short)
			clear(p) // as a read buffer is overwritten
			requireEqual(t, b.Fields, want)
			kept = list
			var size uint32
			for i, f := range list {
				if size += f.Size(); size > limit {
					kept = list[:i]
					break
				}
			}
			requireEqual(t, short.Fields, kept)
			if tooLarge := len(kept) < len(list); errors.Is(err, ErrListTooLarge) != tooLarge || !tooLarge && err != nil {
				t.Fatalf("limit %d, list of %d octets: error is %v", limit, size, err)
			}
			requireEqual(t, tableOf(&limited.table), tableOf(&d.table))
		}
	})
}
