package balance

import "fmt"

// Policy is a way to choose among instances. The zero Policy is RoundRobin.
type Policy uint8

const (
	// RoundRobin takes the instances in turn, each as often as its weight says.
	RoundRobin Policy = iota
	// LeastRequest draws two instances by weight and takes the one with fewer
	// RPCs under way for its weight (gRFC A48); among a few instances it looks
	// at all.
	LeastRequest
	// PickFirst takes the first usable instance in their order, and stays with
	// it until it is unusable.
	PickFirst
)

var policyNames = [...]string{
	RoundRobin:   "round_robin",
	LeastRequest: "least_request",
	PickFirst:    "pick_first",
}

// ParsePolicy reads a policy's name, as String writes it.
func ParsePolicy(s string) (Policy, error) {
	for p, name := range policyNames {
		if name == s {
			return Policy(p), nil
		}
	}
	return 0, fmt.Errorf("balancing policy %q: there is no such policy: want round_robin, least_request or pick_first", s)
}

// String returns the policy's name, such as "round_robin".
func (p Policy) String() string {
	if int(p) >= len(policyNames) {
		return fmt.Sprintf("Policy(%d)", uint8(p))
	}
	return policyNames[p]
}
