package attack

import (
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// instancesWithBadHeaders send header blocks that are too large, that are made to
// grow when they are expanded, or that hold what HTTP/2 does not allow.
func instancesWithBadHeaders() []Instance {
	raw := func(id uint32, end bool, block []byte) []byte {
		flags := http2.FlagHeadersEndHeaders
		if end {
			flags |= http2.FlagHeadersEndStream
		}

		return frameOf(http2.FrameHeaders, flags, id, block)
	}
	compression := func(name string, block []byte) Instance {
		return Instance{
			Name: "HPACK: " + name, Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "COMPRESSION_ERROR",
			Ends:      []http2.ErrCode{http2.ErrCodeCompression},
			onRequest: func(p *peer, id uint32) { _ = p.send(raw(id, true, block)) },
		}
	}
	tooLarge := func(name string, frames func(id uint32) [][]byte) Instance {
		return Instance{
			Name: name, Codes: []codes.Code{codes.Internal}, Own: true, Says: "SETTINGS_MAX_HEADER_LIST_SIZE",
			onRequest: func(p *peer, id uint32) { _ = p.send(frames(id)...) },
		}
	}
	malformed := func(name string, fields ...string) Instance {
		return Instance{
			Name: "header: " + name, Codes: []codes.Code{codes.Internal}, Own: true, Says: "broke the protocol",
			onRequest: func(p *peer, id uint32) {
				_ = p.send(headers(id, true, append([]string{":status", "200", "content-type", "application/grpc"}, fields...)...))
			},
		}
	}
	status := func(name string, fields ...string) Instance {
		return Instance{
			Name: "header: " + name, Codes: []codes.Code{codes.Internal}, Own: true, Says: "broke the protocol",
			onRequest: func(p *peer, id uint32) { _ = p.send(headers(id, true, fields...)) },
		}
	}
	trailer := func(name string, fields ...string) Instance {
		return Instance{
			Name: "trailer: " + name, Codes: []codes.Code{codes.Internal}, Own: true, Says: "malformed trailers",
			onRequest: func(p *peer, id uint32) {
				_ = p.send(begin(id), headers(id, true, append([]string{"grpc-status", "0"}, fields...)...))
			},
		}
	}
	// A field of almost the table's size, and then references to it of one octet.
	bomb := appendIndexing(appendLiteral(nil, ":status", "200"), "bomb", filler(4000))
	bomb = append(bomb, []byte(strings.Repeat("\xbe", 10000))...)
	many := []string{":status", "200"}
	for range 1500 {
		many = append(many, "a", "")
	}
	wide := []string{":status", "200"}
	for range 60 {
		wide = append(wide, "wide", filler(1100))
	}
	endless := func(id uint32) [][]byte {
		frames := [][]byte{frameOf(http2.FrameHeaders, 0, id, appendInteger([]byte{0}, 0, 7, 1<<28))}
		for range 100 {
			frames = append(frames, frameOf(http2.FrameContinuation, 0, id, make([]byte, 16000)))
		}

		return frames
	}

	return []Instance{
		tooLarge("HPACK bomb", func(id uint32) [][]byte { return [][]byte{raw(id, true, bomb)} }),
		tooLarge("HPACK bombs, one after the other", func(id uint32) [][]byte {
			frames := [][]byte{raw(id, false, bomb)}
			for range 50 {
				frames = append(frames, raw(id, false, bomb))
			}

			return frames
		}).also(codes.Unavailable),
		tooLarge("HPACK bomb in trailers", func(id uint32) [][]byte {
			return [][]byte{begin(id), raw(id, true, bomb[len(appendLiteral(nil, ":status", "200")):])}
		}),
		tooLarge("many empty fields", func(id uint32) [][]byte {
			return append([][]byte(nil), headers(id, true, append(many, many[2:]...)...))
		}),
		tooLarge("a header list of 67 KB", func(id uint32) [][]byte {
			block := block(wide...)

			return [][]byte{
				frameOf(http2.FrameHeaders, 0, id, block[:16000]),
				frameOf(http2.FrameContinuation, 0, id, block[16000:32000]),
				frameOf(http2.FrameContinuation, 0, id, block[32000:48000]),
				frameOf(http2.FrameContinuation, 0, id, block[48000:64000]),
				frameOf(http2.FrameContinuation, http2.FlagContinuationEndHeaders, id, block[64000:]),
			}
		}),
		{
			Name: "a field without end", Codes: []codes.Code{codes.Unavailable}, Own: true,
			Ends:      []http2.ErrCode{http2.ErrCodeEnhanceYourCalm, http2.ErrCodeCompression},
			onRequest: func(p *peer, id uint32) { _ = p.send(endless(id)...) },
		},
		compression("an index that is not there", []byte{0xff, 0x80, 0x01}),
		compression("index 0", []byte{0x80}),
		compression("a table above the limit", appendInteger(nil, 0x20, 5, 1<<20)),
		compression("an integer that overflows", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}),
		compression("a text longer than the block", []byte{0x00, 0x7f, 0xff, 0x01}),
		compression("padding of Huffman's code that is too long", []byte{0x00, 0x81, 0xff, 0x81, 0xff}),

		malformed("connection", "connection", "close"),
		malformed("te", "te", "gzip"),
		malformed("transfer-encoding", "transfer-encoding", "chunked"),
		malformed("upgrade", "upgrade", "h2c"),
		malformed("proxy-connection", "proxy-connection", "close"),
		malformed("upper case", "Grpc-Status", "0"),
		malformed("a line break in a value", "x", "y\r\nset-cookie: z"),
		malformed("a line break in a name", "x\r\ny", "z"),
		malformed("a NUL", "x", "\x00"),
		malformed("an empty name", "", "x"),
		malformed("a space in a name", "x y", "z"),
		malformed("a pseudo-header field after others", ":path", "/"),
		malformed(":status twice", ":status", "200"),
		malformed("content-length of two minds", "content-length", "1", "content-length", "2"),
		malformed("a content-length that is negative", "content-length", "-1"),
		status("no :status", "content-type", "application/grpc"),
		status(":status 99999", ":status", "99999"),
		status(":status 101", ":status", "101"),
		status(":status abc", ":status", "abc"),
		status(":status after others", "x", "y", ":status", "200"),
		status("a request", ":method", "POST", ":path", "/", ":scheme", "http"),
		trailer("connection", "connection", "close"),
		trailer("upper case", "X", "y"),
		trailer("a line break", "x", "y\r\nz"),
	}
}

// also adds statuses with which an RPC may end.
func (i Instance) also(statuses ...codes.Code) Instance {
	i.Codes = append(i.Codes[:len(i.Codes):len(i.Codes)], statuses...)

	return i
}
