package attack

import (
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2"
)

// The methods of the app that attacks call: grpc.testing's service, with these
// duties.
const (
	// MethodQuick answers at once.
	MethodQuick = "/grpc.testing.TestService/UnaryCall"
	// MethodHang answers nothing until the RPC is cancelled, and reads nothing.
	MethodHang = "/grpc.testing.TestService/EmptyCall"
	// MethodEndless answers without end.
	MethodEndless = "/grpc.testing.TestService/StreamingOutputCall"
	// MethodSink reads without end and answers nothing.
	MethodSink = "/grpc.testing.TestService/StreamingInputCall"
)

// authority is the service that the RPCs ask for.
const authority = "app"

// emptyMessage is a gRPC message of no bytes.
var emptyMessage = []byte{0, 0, 0, 0, 0}

// request is the header block of an RPC, in literals that leave the compression
// table as it is: it can be sent any number of times.
func request(method string, extra ...string) []byte {
	p := []byte{0x83, 0x86} // :method POST, :scheme http
	p = appendLiteral(p, ":path", method)
	p = appendLiteral(p, ":authority", authority)
	p = appendLiteral(p, "content-type", "application/grpc")
	p = appendLiteral(p, "te", "trailers")
	for i := 0; i < len(extra); i += 2 {
		p = appendLiteral(p, extra[i], extra[i+1])
	}

	return p
}

// appendLiteral appends a field that is not indexed (RFC 7541 section 6.2.2).
func appendLiteral(p []byte, name, value string) []byte {
	return appendText(appendText(append(p, 0x00), name), value)
}

// appendIndexing appends a field that goes into the table (section 6.2.1).
func appendIndexing(p []byte, name, value string) []byte {
	return appendText(appendText(append(p, 0x40), name), value)
}

func appendText(p []byte, text string) []byte {
	return append(appendInteger(p, 0, 7, uint64(len(text))), text...)
}

// appendInteger appends an integer with a prefix of some bits (section 5.1).
func appendInteger(p []byte, pattern byte, bits int, n uint64) []byte {
	limit := uint64(1)<<bits - 1
	if n < limit {
		return append(p, pattern|byte(n))
	}

	return binary.AppendUvarint(append(p, pattern|byte(limit)), n-limit)
}

// filler is text that nobody compresses.
func filler(size int) string { return strings.Repeat("x", size) }

// appendRequest appends a request as one HEADERS frame.
func appendRequest(p []byte, flags http2.Flags, stream uint32, block []byte) []byte {
	return appendFrame(p, http2.FrameHeaders, flags, stream, block)
}

// streams counts ids of streams.
type streams struct{ last uint32 }

func (s *streams) next() uint32 {
	if s.last == 0 {
		s.last = 1
	} else {
		s.last += 2
	}

	return s.last
}
