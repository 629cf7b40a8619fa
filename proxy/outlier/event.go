package outlier

import "time"

// Reason is which of the policy's rules an instance was ejected by.
type Reason uint8

// The reasons.
const (
	ConsecutiveFailures Reason = iota
	LowSuccessRate
	HighFailurePercentage
	// NumReasons is how many there are.
	NumReasons
)

// String names the rule as the schema does.
func (r Reason) String() string {
	switch r {
	case ConsecutiveFailures:
		return "consecutive_failures"
	case LowSuccessRate:
		return "success_rate"
	case HighFailurePercentage:
		return "failure_percentage"
	}
	return "unknown"
}

// Kind is what happened to an instance.
type Kind uint8

// The kinds.
const (
	// Ejected: it is left alone from now on.
	Ejected Kind = iota
	// Returned: it is used again.
	Returned
	// Held: it would be ejected, were not too many already.
	Held
)

// Event is something that happened to an instance.
type Event struct {
	Kind   Kind
	Host   *Host
	Policy string
	// Reason is by which rule it is, was or would be ejected.
	Reason Reason
	// Why says it with numbers; empty where it is held.
	Why string
	// For is how long it is left alone, or was; Times for how many times lately
	// (gRFC A50's multiplier).
	For   time.Duration
	Times int
}
