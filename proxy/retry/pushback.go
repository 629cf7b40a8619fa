package retry

import (
	"math"
	"strconv"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Pushback is what a server says in grpc-retry-pushback-ms about sending the RPC
// again (gRFC A6).
type Pushback uint8

const (
	// NoPushback means that it says nothing.
	NoPushback Pushback = iota
	// Wait means that it says how long to wait.
	Wait
	// Stop means that the RPC is not to be sent again. What is negative or cannot be
	// read stands for it too, and so do several values.
	Stop
)

// ReadPushback reads grpc-retry-pushback-ms in an answer's trailers.
func ReadPushback(fields []hpack.Field) (p Pushback, wait time.Duration) {
	for i := range fields {
		if fields[i].Name != wire.HeaderRetryPushback {
			continue
		}
		if p != NoPushback {
			return Stop, 0
		}
		if wait, p = parsePushback(fields[i].Value); p == Stop {
			return Stop, 0
		}
	}
	return p, wait
}

// parsePushback reads a number of milliseconds: 32 bits, signed, no unnecessary
// leading zeros.
func parsePushback(s string) (time.Duration, Pushback) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 || n > math.MaxInt32 || strconv.FormatInt(n, 10) != s {
		return 0, Stop
	}
	return time.Duration(n) * time.Millisecond, Wait
}
