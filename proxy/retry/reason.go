package retry

// Reason says why an RPC that failed was not sent again, though a policy for that
// holds.
type Reason uint8

// The reasons. NumReasons is how many there are, None included.
const (
	None       Reason = iota // it did not fail, or nothing is said of it
	Status                   // its status is not one of the policy's
	Attempts                 // it was sent as often as the policy allows
	Budget                   // the budget of its destination is used up
	Throttled                // there are too few tokens (retryThrottling)
	PushedBack               // the server asked not to send it again
	Committed                // the caller has begun to see an answer
	TooLong                  // its request is longer than what is kept
	Deadline                 // too little time remains
	NoOther                  // there is no other instance to hedge with

	NumReasons = iota
)

var reasons = [NumReasons]string{
	None:       "",
	Status:     "status",
	Attempts:   "attempts",
	Budget:     "budget",
	Throttled:  "throttled",
	PushedBack: "pushback",
	Committed:  "committed",
	TooLong:    "buffer",
	Deadline:   "deadline",
	NoOther:    "no_other_instance",
}

// String returns the reason as the access log and the metrics name it.
func (r Reason) String() string {
	if int(r) >= len(reasons) {
		return ""
	}
	return reasons[r]
}

// Limited says whether it is one of the policy's limits that ended the RPC: it has
// the flag URX then.
func (r Reason) Limited() bool { return r == Attempts || r == Budget || r == Throttled }
