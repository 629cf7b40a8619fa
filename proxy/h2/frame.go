package h2

import "encoding/binary"

// clientPreface is what a client sends first (RFC 9113 section 3.4).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHeaderLen = 9
	// minMaxFrameSize is the least and the initial SETTINGS_MAX_FRAME_SIZE.
	minMaxFrameSize = 1 << 14
	maxMaxFrameSize = 1<<24 - 1
	maxWindow       = 1<<31 - 1
	maxStreamID     = 1<<31 - 1
)

// frameType is a frame's type (RFC 9113 section 6).
type frameType uint8

const (
	frameData         frameType = 0x0
	frameHeaders      frameType = 0x1
	framePriority     frameType = 0x2
	frameRSTStream    frameType = 0x3
	frameSettings     frameType = 0x4
	framePushPromise  frameType = 0x5
	framePing         frameType = 0x6
	frameGoAway       frameType = 0x7
	frameWindowUpdate frameType = 0x8
	frameContinuation frameType = 0x9
)

// Frame flags; some frame types share a bit.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// frameHeader is the nine octets before each frame (RFC 9113 section 4.1).
type frameHeader struct {
	length int
	typ    frameType
	flags  uint8
	id     uint32
}

func (h frameHeader) has(flag uint8) bool { return h.flags&flag != 0 }

// parseFrameHeader reads a header from the first nine octets of p. The reserved
// bit is ignored.
func parseFrameHeader(p []byte) frameHeader {
	_ = p[8]
	return frameHeader{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		typ:    frameType(p[3]),
		flags:  p[4],
		id:     binary.BigEndian.Uint32(p[5:]) & maxStreamID,
	}
}

func appendFrameHeader(dst []byte, length int, typ frameType, flags uint8, id uint32) []byte {
	return append(dst,
		byte(length>>16), byte(length>>8), byte(length),
		byte(typ), flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putFrameLength(p []byte, length int) {
	p[0], p[1], p[2] = byte(length>>16), byte(length>>8), byte(length)
}

func appendRSTStream(dst []byte, id uint32, code ErrCode) []byte {
	dst = appendFrameHeader(dst, 4, frameRSTStream, 0, id)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendWindowUpdate(dst []byte, id uint32, increment uint32) []byte {
	dst = appendFrameHeader(dst, 4, frameWindowUpdate, 0, id)
	return binary.BigEndian.AppendUint32(dst, increment)
}

func appendPing(dst []byte, ack bool, data [8]byte) []byte {
	var flags uint8
	if ack {
		flags = flagAck
	}
	dst = appendFrameHeader(dst, 8, framePing, flags, 0)
	return append(dst, data[:]...)
}

// maxGoAwayReason bounds the debug data that we send and keep.
const maxGoAwayReason = 256

func appendGoAway(dst []byte, last uint32, code ErrCode, reason string) []byte {
	reason = reason[:min(len(reason), maxGoAwayReason)]
	dst = appendFrameHeader(dst, 8+len(reason), frameGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, reason...)
}

// stripPadding returns the payload of a padded frame without the pad length and
// the padding (RFC 9113 sections 6.1 and 6.2). ok is false where the padding is
// as long as the payload or longer.
func stripPadding(h frameHeader, p []byte) (payload []byte, ok bool) {
	if !h.has(flagPadded) {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}
