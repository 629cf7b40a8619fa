package health

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Answer is what an instance has said, or not said.
type Answer struct {
	// Good says that the instance is well.
	Good bool
	// Told says that Good is the instance's own word. If not, it was made of an
	// answer that did not come, or failed.
	Told bool
	// Unsupported says that the instance knows no health checks, which counts as
	// good (gRFC A17).
	Unsupported bool
	// Text is what people are told of it.
	Text string
}

// told is an answer in the instance's own words.
func told(s Status) Answer { return Answer{Good: s == Serving, Told: true, Text: s.String()} }

// Failed is the answer that did not come, for this reason.
func Failed(text string) Answer { return Answer{Text: text} }

// Exchange reads the answer to one request: of Check, or of Watch. The zero value is
// ready. It is not safe for concurrent use.
type Exchange struct {
	reader reader
	http   int
	last   Answer
	heard  bool
}

// Head takes the answer's headers.
func (x *Exchange) Head(status int) { x.http = status }

// Data takes bytes of the answer. got is handed each message. An error ends the
// exchange.
func (x *Exchange) Data(p []byte, got func(Answer)) error {
	return x.reader.feed(p, func(s Status) {
		x.last, x.heard = told(s), true
		if got != nil {
			got(x.last)
		}
	})
}

// End takes the trailers, or headers that are the whole answer, or nil where neither
// came, and returns what the exchange of a Check comes to. Of a Watch it says how the
// stream ended, which is never good.
func (x *Exchange) End(trailers []hpack.Field, watch bool) Answer {
	code, message, found := codes.Unknown, "", false
	for i := range trailers {
		switch f := &trailers[i]; f.Name {
		case wire.HeaderStatus:
			code, found = wire.ParseStatus(f.Value), true
		case wire.HeaderMessage:
			message = wire.DecodeMessage(f.Value)
		}
	}
	if !found {
		code, message = wire.CodeFromHTTP(x.http), fmt.Sprintf("HTTP status %d, no grpc-status", x.http)
	}
	switch {
	case found && code == codes.Unimplemented:
		return Answer{Good: true, Unsupported: true, Text: "UNIMPLEMENTED: it knows no health checks"}
	case code != codes.OK || !found:
		return Failed(text(code, message))
	case watch:
		return Failed("it ended the stream")
	case !x.heard:
		return Failed("the answer is empty")
	}
	return x.last
}

// Heard says whether a message has come.
func (x *Exchange) Heard() bool { return x.heard }

// maxText bounds what an instance has us write into our log.
const maxText = 200

func text(code codes.Code, message string) string {
	if len(message) > maxText {
		message = message[:maxText] + "..."
	}
	message = strings.ToValidUTF8(message, "\uFFFD")
	if message == "" {
		return wire.StatusName(code)
	}
	return fmt.Sprintf("%s: %s", wire.StatusName(code), message)
}
