// Package retry says whether and when an RPC may be sent once more (gRFC A6): the
// waits between attempts, what servers say about it, and what all that may cost a
// destination. It sends nothing and knows no RPCs: that is package relay's.
package retry

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Policy is a retry policy. It does not change, but for what its Limits count.
type Policy struct {
	// Name is the policy's, for messages.
	Name string
	// MaxAttempts is how often an RPC is sent, the first time counted.
	MaxAttempts int
	// Codes are the statuses after which it is sent again.
	Codes wire.CodeSet
	// ConnectFailure and ResetBeforeHeaders have it sent again after these failures
	// too, whatever their status.
	ConnectFailure, ResetBeforeHeaders bool
	// HoldHeaders keeps the answer's headers back until its first message.
	HoldHeaders bool

	InitialBackoff, MaxBackoff time.Duration
	// Multiplier is how much each wait is longer than the one before.
	Multiplier float64
	// BufferBytes is how much of a request is kept for another attempt.
	BufferBytes int
	// Limits bound the attempts of all RPCs together; nil: nothing does.
	Limits *Limits
}

// Hedging is a hedging policy. It does not change, but for what its Limits count.
type Hedging struct {
	// Name is the policy's, for messages.
	Name string
	// MaxAttempts is how often an RPC is sent, the first time counted.
	MaxAttempts int
	// Delay is the wait before each further copy.
	Delay time.Duration
	// NonFatal are the statuses that end their copy alone.
	NonFatal wire.CodeSet
	// BufferBytes is how much of a request is kept for further copies.
	BufferBytes int
	// Limits bound the attempts of all RPCs together; nil: nothing does.
	Limits *Limits
}
