package h2

import (
	"errors"
	"fmt"
)

// ErrCode is an HTTP/2 error code (RFC 9113 section 7).
type ErrCode uint32

// The error codes of RFC 9113 section 7.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

var errCodeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR",
	"SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM",
	"CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the code's name in RFC 9113.
func (c ErrCode) String() string {
	if int(c) < len(errCodeNames) {
		return errCodeNames[c]
	}
	return fmt.Sprintf("error code 0x%x", uint32(c))
}

// ConnError ends a connection (RFC 9113 section 5.4.1). The peer is told the
// code and the reason in a GOAWAY frame.
type ConnError struct {
	Code   ErrCode
	Reason string
	// Remote says that the peer ended the connection with this code.
	Remote bool
}

// Error implements error.
func (e *ConnError) Error() string {
	if e.Remote {
		return fmt.Sprintf("peer ended the connection with %s: %s", e.Code, e.Reason)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Reason)
}

func connError(code ErrCode, reason string) error {
	return &ConnError{Code: code, Reason: reason}
}

// streamError resets one stream and leaves the connection (RFC 9113 section
// 5.4.2).
type streamError struct {
	id     uint32
	code   ErrCode
	reason string
}

func (e *streamError) Error() string {
	return fmt.Sprintf("stream %d: %s: %s", e.id, e.code, e.reason)
}

// Errors that [Conn.Open] returns. The stream was not opened, and nothing of it
// reached the peer.
var (
	// ErrNoSlot says that the peer's SETTINGS_MAX_CONCURRENT_STREAMS is reached.
	// [Handler.OnConnSlots] is called when another stream may be opened.
	ErrNoSlot = errors.New("the peer allows no more concurrent streams on this connection")
	// ErrDraining says that the connection takes no new streams: the peer sent
	// GOAWAY, its stream ids are used up, or it is being closed.
	ErrDraining = errors.New("the connection takes no new streams")
	// ErrClosed says that the connection has ended.
	ErrClosed = errors.New("the connection is closed")
)
