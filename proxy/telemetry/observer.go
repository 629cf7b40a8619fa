package telemetry

import (
	"time"

	"google.golang.org/grpc/codes"
)

// Observer is told of the RPCs of one group that have ended, such as those of a canary or
// of a variant of an experiment. It is called on the path of RPCs, from many goroutines at
// once: it must not block.
type Observer interface {
	Ended(o *Outcome)
}

// Outcome is what came of one RPC. It and all it refers to are valid only during the call.
type Outcome struct {
	// Code is the status that the caller got.
	Code codes.Code
	// Took is how long the RPC took.
	Took time.Duration
	// Excused says that the end says nothing about the destination: the caller went away,
	// or a limit of ours refused the RPC.
	Excused bool
	// Forced says that the caller chose the group itself.
	Forced bool
	// Unit is the hash of what groups stick to; 0: the RPC has none, or none is hashed.
	Unit uint64
	// Measures are what the app reported in the trailers `pillion-measure-NAME`.
	Measures []Measure
}

// Measure is a value that the app reported.
type Measure struct {
	Name  string
	Value float64
}
