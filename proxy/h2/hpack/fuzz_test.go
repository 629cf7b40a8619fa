package hpack

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// fuzzTableSizes are what the fuzz target's first octet chooses from.
var fuzzTableSizes = [...]uint32{4096, 0, 64, 65536}

// fuzzBlocks splits a fuzz input: one octet for the table's size, one for the length of the first
// of two blocks, then the blocks.
func fuzzBlocks(data []byte) (tableSize uint32, blocks [2][]byte) {
	if len(data) < 2 {
		return DefaultTableSize, blocks
	}
	tableSize = fuzzTableSizes[data[0]%4]
	n := min(int(data[1]), len(data)-2)
	return tableSize, [2][]byte{data[2 : 2+n], data[2+n:]}
}

// FuzzDecode decodes two blocks in a row with our decoder and golang.org/x/net's, and requires that
// they agree on what is valid and on the fields. Deliberate differences:
//
//   - A table size update that is not at the block's start, or a third one, is an error to us, as
//     the RFC says. x/net lets it pass while the table is empty.
//   - Of two updates at the start x/net rejects the second unless the first emptied the table; the
//     RFC allows it. (decodeXNet works around that.)
//
// Beside them runs our decoder with a limit, which must see the same errors and keep the same table.
func FuzzDecode(f *testing.F) {
	add := func(blocks ...string) {
		first := octets(f, blocks[0])
		for size := range fuzzTableSizes {
			f.Add(slices.Concat([]byte{byte(size), byte(len(first))}, first, octets(f, strings.Join(blocks[1:], ""))))
		}
	}
	add("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "82be")
	add("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", "8286 84be 5886 a8eb 1064 9cbf")
	add("203fe11f 4803 3330 3258 0770 7269 7661 7465", "88c1 1008 7061 7373 776f 7264 0673 6563 7265 74")
	add("3f21 4001610162", "be 20 be")
	add("8220", "202020")
	add("ffffffffffffffffffff", "4184ffffffff")
	add("7f80ffffffffffffff7f", "0f80808080808080808000")
	e := NewEncoder()
	for _, list := range [][]Field{request("1S"), request("2S"), response, trailers} {
		p := encodeOurs(e, nil, list)
		f.Add(slices.Concat([]byte{0, byte(len(p))}, p, p))
		f.Add(slices.Concat([]byte{0, 0}, literalBlock(list, true)))
	}

	f.Fuzz(func(t *testing.T, data []byte) {
		tableSize, blocks := fuzzBlocks(data)
		ours, limited := NewDecoder(tableSize), NewDecoder(tableSize)
		oracle := hpack.NewDecoder(DefaultTableSize, nil)
		oracle.SetAllowedMaxDynamicTableSize(tableSize)
		var b, short Block
		const limit = 100
		for _, p := range blocks {
			b.Reset()
			short.Reset()
			err := ours.Decode(p, 0, &b)

			limitedErr := limited.Decode(p, limit, &short)
			if tooLarge := err == nil && b.Size() > limit; errors.Is(limitedErr, ErrListTooLarge) != tooLarge ||
				!tooLarge && !errors.Is(limitedErr, err) {
				t.Fatalf("%x: error is %v, with a limit %v", p, err, limitedErr)
			}
			if n := len(short.Fields); !slices.Equal(short.Fields, b.Fields[:n]) || short.Size() > limit {
				t.Fatalf("%x: fields are %v, with a limit %v", p, b.Fields, short.Fields)
			}
			requireEqual(t, tableOf(&limited.table), tableOf(&ours.table))

			want, oracleErr := tryDecodeXNet(oracle, p)
			if errors.Is(err, errUpdatePlace) || errors.Is(err, errUpdateCount) {
				return
			}
			if (err == nil) != (oracleErr == nil) {
				t.Fatalf("%x: error is %v, x/net has %v", p, err, oracleErr)
			}
			if err != nil {
				return
			}
			requireEqual(t, b.Fields, want)
		}
	})
}

// FuzzEncode reads a list of fields out of the input, encodes it three times over, and requires that
// golang.org/x/net's decoder reads it each time.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("\x07\x04:method\x00POST\x0c\x02grpc-timeout\x011S"), uint16(4096))
	f.Add([]byte("\x00\x00\x00"), uint16(0))
	f.Add([]byte("\x01\x01a\x00b\x01\x01a\x00c\x01\x01a\x00d"), uint16(70))
	f.Fuzz(func(t *testing.T, data []byte, tableSize uint16) {
		var list []Field
		for len(data) >= 2 {
			nameLen, valueLen := int(data[0]), int(data[1])
			data = data[2:]
			name := data[:min(nameLen, len(data))]
			data = data[len(name):]
			if len(data) == 0 {
				break
			}
			sensitive := data[0]&1 != 0
			data = data[1:]
			value := data[:min(valueLen, len(data))]
			data = data[len(value):]
			list = append(list, Field{Name: string(name), Value: string(value), Sensitive: sensitive})
		}
		e := NewEncoder()
		e.SetLimit(1 << 20)
		e.SetMaxTableSize(uint32(tableSize))
		oracle := hpack.NewDecoder(DefaultTableSize, nil)
		oracle.SetAllowedMaxDynamicTableSize(uint32(tableSize))
		for range 3 {
			requireEqual(t, decodeXNet(t, oracle, encodeOurs(e, nil, list)), list)
		}
	})
}
