package attack

import (
	"fmt"

	"golang.org/x/net/http2"
)

// How is how an attack came to its end, as the attacker saw it.
type How int

// The ends.
const (
	// Held is a connection that lives, on which nothing was ended and nothing
	// answered: windows or limits hold the attacker.
	Held How = iota
	// Answered is a connection that lives and whose requests were answered.
	Answered
	// StreamsReset is a connection that lives and whose streams were reset.
	StreamsReset
	// GoneAway is a connection that was ended by a GOAWAY with an error.
	GoneAway
	// Closed is a connection that was closed without a word of HTTP/2.
	Closed
)

// End is what an attacker saw.
type End struct {
	How How
	// Code is that of the GOAWAY, or of the most frequent RST_STREAM.
	Code http2.ErrCode
	// Reason is what the GOAWAY, or an answer that is no HTTP/2, said.
	Reason string
	// Streams that were answered, and that were reset.
	Answered, Reset int
	// Sent is how many bytes the sidecar took.
	Sent int64
}

// String is the end as the tables write it: "GOAWAY ENHANCE_YOUR_CALM",
// "RST_STREAM CANCEL", "answered", "closed" or "held".
func (e End) String() string {
	switch e.How {
	case GoneAway:
		return "GOAWAY " + e.Code.String()
	case StreamsReset:
		return "RST_STREAM " + e.Code.String()
	case Answered:
		return "answered"
	case Closed:
		return "closed"
	case Held:
		return "held"
	}

	return fmt.Sprintf("end %d", int(e.How))
}
