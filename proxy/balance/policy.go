package balance

import (
	"fmt"
	"strings"
)

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
	// WeightedRoundRobin is RoundRobin by weights that follow from the load that
	// the instances report (gRFC A58, see Reports). Who makes the Picker has to
	// see to that.
	WeightedRoundRobin
	// RingHash sends what has the same hash to the same instance: the one whose
	// point comes next on a ring (gRFC A42).
	RingHash
	// Maglev sends what has the same hash to the same instance, by a table that
	// the instances fill in turn, each in an order of its own (Eisenbud and
	// others, "Maglev", 2016).
	Maglev
	// EWMA draws two instances by weight and takes the one with the lower product
	// of latency and RPCs under way (see Latency).
	EWMA
	// Random draws an instance by weight.
	Random
	// ByDefault is whatever is used where nothing is said.
	ByDefault
)

var policyNames = [...]string{
	RoundRobin:         "round_robin",
	LeastRequest:       "least_request",
	PickFirst:          "pick_first",
	WeightedRoundRobin: "weighted_round_robin",
	RingHash:           "ring_hash",
	Maglev:             "maglev",
	EWMA:               "ewma",
	Random:             "random",
	ByDefault:          "",
}

// ParsePolicy reads a policy's name, as String writes it. "" is ByDefault.
func ParsePolicy(s string) (Policy, error) {
	for p, name := range policyNames {
		if name == s {
			return Policy(p), nil
		}
	}
	return 0, fmt.Errorf("balancing policy %q: there is no such policy: want one of %s",
		s, strings.Join(policyNames[:ByDefault], ", "))
}

// String returns the policy's name, such as "round_robin".
func (p Policy) String() string {
	if int(p) >= len(policyNames) {
		return fmt.Sprintf("Policy(%d)", uint8(p))
	}
	return policyNames[p]
}

// Hashes says whether the policy goes by a query's hash.
func (p Policy) Hashes() bool { return p == RingHash || p == Maglev }
