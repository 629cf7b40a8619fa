package canned

import (
	"encoding/binary"
	"slices"
)

// Frame types and flags of RFC 9113 section 6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameWindowUpdate = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	settingMaxConcurrentStreams = 0x3
	settingInitialWindowSize    = 0x4

	frameHeaderLen = 9
	// maxFrameSize is SETTINGS_MAX_FRAME_SIZE's initial value, which this
	// backend neither raises nor exceeds.
	maxFrameSize = 16384
	// maxWindow is the largest flow-control window (RFC 9113 section 6.9.1).
	maxWindow = 1<<31 - 1
	// initialWindow is every window's size before SETTINGS or WINDOW_UPDATE.
	initialWindow = 65535
	// maxConcurrentStreams is what the backend allows of a connection.
	maxConcurrentStreams = 4096

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// frameHeader is the fixed beginning of each frame (RFC 9113 section 4.1).
type frameHeader struct {
	length   int
	typ      byte
	flags    byte
	streamID uint32
}

func (h frameHeader) has(flag byte) bool { return h.flags&flag != 0 }

// parseFrameHeader reads the first frameHeaderLen bytes of b.
func parseFrameHeader(b []byte) frameHeader {
	return frameHeader{
		length:   int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:      b[3],
		flags:    b[4],
		streamID: binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

func appendFrameHeader(b []byte, h frameHeader) []byte {
	b = append(b, byte(h.length>>16), byte(h.length>>8), byte(h.length), h.typ, h.flags)
	return binary.BigEndian.AppendUint32(b, h.streamID)
}

func appendFrame(b []byte, typ, flags byte, streamID uint32, payload []byte) []byte {
	b = appendFrameHeader(b, frameHeader{len(payload), typ, flags, streamID})
	return append(b, payload...)
}

func appendWindowUpdate(b []byte, streamID uint32, n int) []byte {
	b = appendFrameHeader(b, frameHeader{4, frameWindowUpdate, 0, streamID})
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// Header blocks of an answer and of its trailers. They use no dynamic table,
// so that they are the same on each stream: ":status: 200" is static entry 8,
// "content-type" the name of static entry 31, and values are literals without
// indexing (RFC 7541 section 6.2.2).
var (
	responseHeaders = append([]byte{0x88, 0x0f, 31 - 15}, literal("application/grpc")...)
	trailers        = grpcStatus(nil, "0")
	// unimplemented is an answer without messages (trailers-only).
	unimplemented = grpcStatus(responseHeaders, "12")
)

func grpcStatus(before []byte, code string) []byte {
	return slices.Concat(before, []byte{0x00}, literal("grpc-status"), literal(code))
}

// literal is a string of less than 127 bytes without Huffman coding.
func literal(s string) []byte { return append([]byte{byte(len(s))}, s...) }

// unary is a whole answer made beforehand, in which only the stream's id has
// to be filled in.
type unary struct {
	frames []byte
	// ids are the offsets of the stream ids in frames.
	ids []int
	// data is how much of the flow-control windows the answer takes.
	data int64
}

// healthy is the answer to a health check: one message, whose field 1 is 1, SERVING
// (grpc.health.v1).
var healthy = cannedUnary(append(appendPrefix(nil, 2), 0x08, 0x01))

// cannedUnary makes the answer with a body that is one gRPC message.
func cannedUnary(body []byte) *unary {
	u := &unary{data: int64(len(body))}
	add := func(typ, flags byte, payload []byte) {
		u.ids = append(u.ids, len(u.frames)+5)
		u.frames = appendFrame(u.frames, typ, flags, 0, payload)
	}
	add(frameHeaders, flagEndHeaders, responseHeaders)
	for len(body) > maxFrameSize {
		add(frameData, 0, body[:maxFrameSize])
		body = body[maxFrameSize:]
	}
	add(frameData, 0, body)
	add(frameHeaders, flagEndHeaders|flagEndStream, trailers)
	return u
}

// appendTo appends the answer for one stream.
func (u *unary) appendTo(b []byte, streamID uint32) []byte {
	start := len(b)
	b = append(b, u.frames...)
	for _, at := range u.ids {
		binary.BigEndian.PutUint32(b[start+at:], streamID)
	}
	return b
}
