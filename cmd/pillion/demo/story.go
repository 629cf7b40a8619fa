package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// entry is a line of a sidecar's log, as far as the demo reads it.
type entry struct {
	Msg, Side, Address        string // what a sidecar listens on
	Instance, Policy, Problem string
	Reason, Why, To           string
	For, After                time.Duration
	OpenFor                   time.Duration `json:"open_for"`
	Time                      time.Time
	Canary, Phase             string // of a canary
	Run                       uint64
	Step                      int
	Weight                    float64
}

// parseEntry reads a line of a sidecar's log; it is false for any other line.
func parseEntry(line []byte) (e entry, ok bool) {
	return e, bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &e) == nil
}

// inForce is what a sidecar says when it has taken over its mesh file.
const inForce = "mesh file is in force"

// tripped is what a sidecar says when its own evidence against a canary is enough.
const tripped = "canary: this sidecar takes its own RPCs off it for the rest of the step"

// story tells in a few words what a policy has done, "" for what is none of that.
// Instances are named by their addresses.
func (e entry) story() string {
	switch e.Msg {
	case "circuit breaker: open":
		return fmt.Sprintf("the breaker opens for %v: %s", e.OpenFor, e.Reason)
	case "circuit breaker: half-open":
		return "the breaker is half-open: it lets a few probes through"
	case "circuit breaker: closed":
		return "the breaker closes: " + e.Reason
	case "instance ejected: more of its RPCs fail than of others'":
		return fmt.Sprintf("%s is ejected for %v: %s", e.Instance, e.For, e.Why)
	case "ejected instance is used again":
		return fmt.Sprintf("%s is used again, after %v", e.Instance, e.After.Round(10*time.Millisecond))
	case "instance's circuit breaker opened":
		return fmt.Sprintf("the breaker of %s opens for %v: %s", e.Instance, e.For, e.Why)
	case "instance's circuit breaker changed":
		return fmt.Sprintf("the breaker of %s is %s: %s", e.Instance, e.To, e.Why)
	case tripped:
		return "takes its own RPCs off canary " + e.Canary + ": " + e.Reason
	case "canary: transition":
		return fmt.Sprintf("canary %s: %s, step %d, %.0f %%: %s", e.Canary, e.Phase, e.Step, 100*e.Weight, e.Reason)
	case "policy is refused, its last good version stays in force if there is one":
		return "a policy is refused: " + e.Problem
	}
	return ""
}
