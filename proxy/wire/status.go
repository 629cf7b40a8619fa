package wire

import "google.golang.org/grpc/codes"

// statusNames are the names of google.rpc.Code, which gRFC A66 has in the
// grpc.status label.
var statusNames = [...]string{
	codes.OK:                 "OK",
	codes.Canceled:           "CANCELLED",
	codes.Unknown:            "UNKNOWN",
	codes.InvalidArgument:    "INVALID_ARGUMENT",
	codes.DeadlineExceeded:   "DEADLINE_EXCEEDED",
	codes.NotFound:           "NOT_FOUND",
	codes.AlreadyExists:      "ALREADY_EXISTS",
	codes.PermissionDenied:   "PERMISSION_DENIED",
	codes.ResourceExhausted:  "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION",
	codes.Aborted:            "ABORTED",
	codes.OutOfRange:         "OUT_OF_RANGE",
	codes.Unimplemented:      "UNIMPLEMENTED",
	codes.Internal:           "INTERNAL",
	codes.Unavailable:        "UNAVAILABLE",
	codes.DataLoss:           "DATA_LOSS",
	codes.Unauthenticated:    "UNAUTHENTICATED",
}

// ParseStatus reads a grpc-status. What is not a number, or not one of the
// codes 0 to 16, is codes.Unknown: who relays the RPC passes on what was
// written, not what was understood.
func ParseStatus(s string) codes.Code {
	if len(s) == 0 {
		return codes.Unknown
	}
	n := 0
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return codes.Unknown
		}
		if n = n*10 + int(c); n >= len(statusNames) {
			return codes.Unknown
		}
	}
	return codes.Code(n)
}

// StatusName returns a code's name as google.rpc.Code and gRFC A66 write it:
// "DEADLINE_EXCEEDED". A code that gRPC does not define is "UNKNOWN".
func StatusName(c codes.Code) string {
	if int64(c) >= int64(len(statusNames)) {
		return statusNames[codes.Unknown]
	}
	return statusNames[c]
}

// Error codes of RST_STREAM and GOAWAY (RFC 9113, section 7) that mean
// something other than INTERNAL to gRPC.
const (
	h2RefusedStream      = 0x7
	h2Cancel             = 0x8
	h2EnhanceYourCalm    = 0xb
	h2InadequateSecurity = 0xc
)

// CodeFromReset returns the status of an RPC whose stream the peer reset with
// an HTTP/2 error code. It does not know of deadlines: a reset that arrives
// once the RPC's deadline has passed is DEADLINE_EXCEEDED whatever its code.
func CodeFromReset(h2code uint32) codes.Code {
	switch h2code {
	case h2RefusedStream:
		return codes.Unavailable
	case h2Cancel:
		return codes.Canceled
	case h2EnhanceYourCalm:
		return codes.ResourceExhausted
	case h2InadequateSecurity:
		return codes.PermissionDenied
	}
	return codes.Internal
}

// CodeFromHTTP returns the status of an RPC that was answered with an HTTP
// status and no grpc-status (grpc/doc/http-grpc-status-mapping.md, and 431 as
// grpc-go has it).
func CodeFromHTTP(status int) codes.Code {
	switch status {
	case 400, 431:
		return codes.Internal
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 404:
		return codes.Unimplemented
	case 429, 502, 503, 504:
		return codes.Unavailable
	}
	return codes.Unknown
}
