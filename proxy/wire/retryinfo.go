package wire

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

// typeRetryInfo is what google.protobuf.Any calls a google.rpc.RetryInfo.
const typeRetryInfo = "type.googleapis.com/google.rpc.RetryInfo"

// RetryInfoDetails returns the value of HeaderStatusDetails for a status with one
// detail, a google.rpc.RetryInfo that asks to try again after delay: a
// google.rpc.Status in base64 without padding. code and message have to be those of
// HeaderStatus and HeaderMessage, since libraries prefer what stands here. A byte of
// message that is not UTF-8 becomes U+FFFD, as EncodeMessage has it; a delay below 0
// is 0.
//
// It appends the few fields by hand: the types of genproto and their reflection would
// be a part of every sidecar for them alone.
func RetryInfoDetails(code codes.Code, message string, delay time.Duration) string {
	delay = max(delay, 0)
	duration := appendVarintField(nil, 1, uint64(delay/time.Second))
	duration = appendVarintField(duration, 2, uint64(delay%time.Second))
	info := appendBytesField(nil, 1, duration)

	detail := protowire.AppendTag(nil, 1, protowire.BytesType)
	detail = protowire.AppendString(detail, typeRetryInfo)
	detail = appendBytesField(detail, 2, info)

	b := appendVarintField(make([]byte, 0, len(message)+len(detail)+16), 1, uint64(code))
	if !utf8.ValidString(message) {
		message = string([]rune(message))
	}
	if message != "" {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, message)
	}
	return base64.RawStdEncoding.EncodeToString(appendBytesField(b, 3, detail))
}

// appendVarintField appends a field unless it has its default.
func appendVarintField(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendBytesField(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// RetryPushback returns the value of HeaderRetryPushback that asks to try again after
// delay (gRFC A6): whole milliseconds, rounded up, so that nobody comes too early, and
// at most what an int32 holds. A delay below 0 is 0: written as it is, it would forbid
// to try again.
func RetryPushback(delay time.Duration) string {
	delay = max(delay, 0)
	ms := delay.Milliseconds()
	if delay%time.Millisecond != 0 {
		ms++
	}
	return strconv.FormatInt(min(ms, math.MaxInt32), 10)
}
