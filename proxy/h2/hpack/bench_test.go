package hpack

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// request is what grpc-go sends for a unary RPC with a deadline; its last field is new each time.
func request(timeout string) []Field {
	return []Field{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/helloworld.Greeter/SayHello"},
		{Name: ":authority", Value: "greeter.service.consul:50051"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"},
		{Name: "x-tenant", Value: "acme"},
		{Name: "grpc-accept-encoding", Value: "gzip"},
		{Name: "grpc-timeout", Value: timeout},
	}
}

var response = []Field{
	{Name: ":status", Value: "200"},
	{Name: "content-type", Value: "application/grpc"},
}

var trailers = []Field{
	{Name: "grpc-status", Value: "0"},
	{Name: "grpc-message", Value: ""},
}

// timeouts are values of grpc-timeout, more than are remembered, so that none is seen twice lately.
var timeouts = func() []string {
	var all []string
	for i := range 5000 {
		all = append(all, strconv.Itoa(990000+i)+"u")
	}
	return all
}()

// encodeOurs encodes one block.
func encodeOurs(e *Encoder, dst []byte, fields []Field) []byte {
	dst = e.BeginBlock(dst)
	for i := range fields {
		f := &fields[i]
		dst = e.AppendField(dst, f.Name, f.Value, f.Sensitive)
	}
	return dst
}

func encodeXNet(tb testing.TB, e *hpack.Encoder, fields []Field) {
	for _, f := range fields {
		if err := e.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive}); err != nil {
			tb.Fatal(err)
		}
	}
}

// changing is one request each time, with the next timeout.
func changing() func(i int) []Field {
	fields := request("")
	return func(i int) []Field {
		fields[len(fields)-1].Value = timeouts[i%len(timeouts)]
		return fields
	}
}

// methods is a request to the next of 30 methods each time.
func methods() func(i int) []Field {
	var paths []string
	for i := range 30 {
		paths = append(paths, "/helloworld.Greeter/SayHello"+strconv.Itoa(i))
	}
	fields := request("1S")
	return func(i int) []Field {
		fields[2].Value = paths[i*7%len(paths)]
		return fields
	}
}

func benchmarkEncode(b *testing.B, next func(i int) []Field) {
	b.Run("pillion", func(b *testing.B) {
		e := NewEncoder()
		var dst []byte
		for i := range 3 {
			dst = encodeOurs(e, dst[:0], next(i))
		}
		b.ReportAllocs()
		i := 3
		for b.Loop() {
			dst = encodeOurs(e, dst[:0], next(i))
			i++
		}
		b.ReportMetric(float64(len(dst)), "octets")
	})
	b.Run("x_net", func(b *testing.B) {
		var dst bytes.Buffer
		e := hpack.NewEncoder(&dst)
		for i := range 3 {
			encodeXNet(b, e, next(i))
		}
		b.ReportAllocs()
		i := 3
		for b.Loop() {
			dst.Reset()
			encodeXNet(b, e, next(i))
			i++
		}
		b.ReportMetric(float64(dst.Len()), "octets")
	})
}

func BenchmarkEncode(b *testing.B) {
	indexed := request("1S")
	b.Run("request_indexed", func(b *testing.B) {
		benchmarkEncode(b, func(int) []Field { return indexed })
	})
	b.Run("request_new_timeout", func(b *testing.B) { benchmarkEncode(b, changing()) })
	b.Run("request_30_methods", func(b *testing.B) { benchmarkEncode(b, methods()) })
	b.Run("response", func(b *testing.B) { benchmarkEncode(b, func(int) []Field { return response }) })
	b.Run("trailers", func(b *testing.B) { benchmarkEncode(b, func(int) []Field { return trailers }) })
}

func benchmarkDecode(b *testing.B, first, again []byte) {
	b.Run("pillion", func(b *testing.B) {
		d := NewDecoder(DefaultTableSize)
		var block Block
		if err := d.Decode(first, 0, &block); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			block.Reset()
			if err := d.Decode(again, 1<<20, &block); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("x_net", func(b *testing.B) {
		var fields []hpack.HeaderField
		d := hpack.NewDecoder(DefaultTableSize, func(f hpack.HeaderField) { fields = append(fields, f) })
		if _, err := d.Write(first); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			fields = fields[:0]
			if _, err := d.Write(again); err != nil {
				b.Fatal(err)
			}
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// literalBlock is a block of fields without indexing, Huffman coded if it says so, with names from
// the static table where it has them.
func literalBlock(fields []Field, huffman bool) []byte {
	var p []byte
	for _, f := range fields {
		i := findStaticName(hashName(f.Name), f.Name)
		p = appendInteger(p, patternNotIndexed, maskLiteral, uint64(i))
		if i == 0 {
			p = appendTestString(p, f.Name, huffman)
		}
		p = appendTestString(p, f.Value, huffman)
	}
	return p
}

func appendTestString(p []byte, s string, huffman bool) []byte {
	if !huffman {
		return append(appendInteger(p, 0, maskString, uint64(len(s))), s...)
	}
	p = appendInteger(p, flagHuffman, maskString, hpack.HuffmanEncodeLength(s))
	return hpack.AppendHuffmanString(p, s)
}

func BenchmarkDecode(b *testing.B) {
	e := NewEncoder()
	fields := request("1S")
	first := encodeOurs(e, nil, fields)
	first = encodeOurs(e, first, fields)
	indexed := encodeOurs(e, nil, fields)
	fields[len(fields)-1].Value = "998877u"
	literal := encodeOurs(e, nil, fields)

	var huffman []byte // as grpc-go sends it: the timeout is a literal in Huffman code
	huffman = append(huffman, indexed[:len(indexed)-1]...)
	huffman = append(huffman, literal[len(indexed)-1:len(literal)-len("998877u")-1]...)
	huffman = appendTestString(huffman, "998877u", true)

	b.Run("request_indexed", func(b *testing.B) { benchmarkDecode(b, first, indexed) })
	b.Run("request_timeout_raw", func(b *testing.B) { benchmarkDecode(b, first, literal) })
	b.Run("request_timeout_huffman", func(b *testing.B) { benchmarkDecode(b, first, huffman) })
	// h2load and others that index nothing.
	b.Run("request_all_literal_raw", func(b *testing.B) { benchmarkDecode(b, nil, literalBlock(fields, false)) })
	b.Run("request_all_literal_huffman", func(b *testing.B) { benchmarkDecode(b, nil, literalBlock(fields, true)) })
}

// BenchmarkForward decodes a request with a timeout in Huffman code and encodes it again, as a proxy
// does.
func BenchmarkForward(b *testing.B) {
	sender := newXNetEncoder()
	next := changing()
	var blocks [][]byte
	for i := range 1000 {
		blocks = append(blocks, bytes.Clone(sender.encode(b, next(i))))
	}
	// x/net's encoder indexes every timeout, so the blocks are only good in order, from the start.
	d, e := NewDecoder(DefaultTableSize), NewEncoder()
	var (
		block Block
		dst   []byte
		i     int
	)
	b.ReportAllocs()
	for b.Loop() {
		if i == len(blocks) {
			i, d = 0, NewDecoder(DefaultTableSize)
		}
		block.Reset()
		if err := d.Decode(blocks[i], 16<<10, &block); err != nil {
			b.Fatal(err)
		}
		dst = encodeOurs(e, dst[:0], block.Fields)
		i++
	}
}

var huffmanTexts = map[string]string{
	"timeout":     "998877u",
	"path":        "/helloworld.Greeter/SayHello",
	"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	"jwt":         strings.Repeat("eyJhbGciOiJSUzI1NiIsImtpZCI6", 30),
	"rare":        strings.Repeat("\x01\xfe{}|\x80", 40),
}

// BenchmarkHuffmanEncode is why the encoder does not use Huffman code: beside copying the octets, a
// string of 55 octets costs as much as several fields.
func BenchmarkHuffmanEncode(b *testing.B) {
	for name, text := range huffmanTexts {
		dst := make([]byte, 0, 4096)
		b.Run(name+"/raw", func(b *testing.B) {
			for b.Loop() {
				dst = append(dst[:0], text...)
			}
		})
		b.Run(name+"/huffman", func(b *testing.B) {
			for b.Loop() {
				dst = appendInteger(dst[:0], flagHuffman, maskString, hpack.HuffmanEncodeLength(text))
				dst = hpack.AppendHuffmanString(dst, text)
			}
		})
	}
}

func BenchmarkHuffmanDecode(b *testing.B) {
	for name, text := range huffmanTexts {
		src := hpack.AppendHuffmanString(nil, text)
		b.Run(name+"/pillion", func(b *testing.B) {
			dst := make([]byte, maxDecodedLen(len(src)))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if n, ok := decodeHuffman(dst, src); !ok || n != len(text) {
					b.Fatal("not decoded")
				}
			}
		})
		b.Run(name+"/x_net", func(b *testing.B) {
			var dst bytes.Buffer
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				dst.Reset()
				if _, err := hpack.HuffmanDecode(&dst, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkConnection is what an encoder and a decoder cost in memory (B/op), unused and after one
// RPC.
func BenchmarkConnection(b *testing.B) {
	var (
		e *Encoder
		d *Decoder
	)
	b.Run("unused", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e, d = NewEncoder(), NewDecoder(DefaultTableSize)
		}
	})
	b.Run("used", func(b *testing.B) {
		b.ReportAllocs()
		p := make([]byte, 0, 4096)
		var block Block
		for b.Loop() {
			e, d = NewEncoder(), NewDecoder(DefaultTableSize)
			for range 3 {
				p = encodeOurs(e, p[:0], request1S)
				block.Reset()
				if err := d.Decode(p, 0, &block); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
