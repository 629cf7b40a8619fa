package upstream

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Turn is an attempt's turn at an instance, as Begin hands it out: whoever ends the
// attempt says it in the Outcome. The zero value is that of an attempt that no
// breaker counts.
type Turn struct {
	ticket breaker.Ticket
	loads  *loads
}

// Outcome is how an attempt at an instance ended.
type Outcome struct {
	// Turn is what Begin returned for the attempt.
	Turn Turn
	// Code is the status that the caller was told, or would have been: from the
	// trailers, from headers that are the whole answer, or made of a reset.
	Code codes.Code
	// FirstByte is how long the answer's headers took, Total how long the attempt;
	// FirstByte is Total where no answer came.
	FirstByte, Total time.Duration
	// Excused says that Code tells nothing of the instance: a sidecar's limiter made
	// it, ours or another's, or the caller cancelled, or a hedge lost.
	Excused bool
	// Trailers are those of the answer, nil where there were none. They are valid
	// during the call.
	Trailers []hpack.Field
}

// Begin counts an attempt as under way on the instance, until End. Each is observed
// once, or a breaker's probe stays taken for a while.
func (in *Instance) Begin(now time.Time) Turn {
	in.inFlight.Add(1)
	turn := Turn{loads: in.loads.Load().begin()}
	if j := in.judge.Load(); j != nil {
		turn.ticket = j.begin(now)
	}
	return turn
}

// End ends what Begin began.
func (in *Instance) End() { in.inFlight.Add(-1) }

// Observe takes note of how an attempt ended that Begin counted. One that ended
// without an answer of any kind, and not for the instance's fault, is Excused.
func (in *Instance) Observe(now time.Time, o *Outcome) {
	o.Turn.loads.end()
	if m := in.measures.Load(); m != nil {
		m.observe(now, o)
	}
	if j := in.judge.Load(); j != nil {
		j.observe(now, o)
	}
}
