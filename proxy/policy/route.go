package policy

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/retry"
)

// Route is the compiled rules of one route policy. A nil one has none.
type Route struct {
	// Policy is the policy's name.
	Policy string

	rules []Rule
	index index
}

// Rule is one rule of a route.
type Rule struct {
	// Policy and Name are the policy's and the rule's name, Label is both.
	Policy, Name, Label string
	// Status answers the RPC here; nil: it is sent on.
	Status *FixedStatus
	// Timeout is the deadline of RPCs that come without one; 0: what the timeout
	// policy says.
	Timeout time.Duration
	// Timeouts go field by field before the timeout policy's; nil: they say nothing.
	Timeouts *Timeout
	// Retry goes before the retry and hedging policies; nil: those hold.
	Retry *retry.Policy
	// Request and Response change the metadata of the request and of the answer.
	Request, Response *Change
	// Authority is the :authority that the instance is told; "": the caller's.
	Authority string
	// Mirror sends copies to somewhere else; nil: none.
	Mirror *Mirror
	// Yields has split policies of the service go before the rule's choice of a part of it.
	Yields bool

	match           *Match
	service, subset string
	split           *split
}

// FixedStatus is an answer that a policy makes.
type FixedStatus struct {
	Code    codes.Code
	Message string
}

// Decision is where an RPC goes.
type Decision struct {
	// Rule is the rule that decided; nil: none matched.
	Rule *Rule
	// Service is where the RPC goes. It is the service that it was addressed to
	// unless the rule names another.
	Service string
	// Subset is which part of the service; "": its default.
	Subset string
	// Group is the group of the split that was chosen; nil: there was no split.
	Group *Group
}

// splitRoll is the number under which a rule's split draws, far from those of rules.
const splitRoll = 1 << 32

// Decide finds the first rule that matches an RPC, and where the RPC goes. addressed
// is the service that it was addressed to. A trace has all rules looked at, and
// what came of it written down; it is nil for real RPCs.
func (r *Route) Decide(rpc *RPC, addressed string, t *Trace) Decision {
	if r == nil {
		return Decision{Service: addressed}
	}
	lists := r.index.forPath(rpc.Path)
	return r.decide(rpc, addressed, &lists, t)
}

// decide is Decide where it is known which rules the RPC's path finds.
func (r *Route) decide(rpc *RPC, addressed string, lists *pathLists, t *Trace) Decision {
	d := Decision{Service: addressed}
	dice := dice{random: rpc.Random}
	found := 0
	if t == nil {
		found = r.index.first(r.rules, rpc, lists, &dice)
	} else {
		found = r.walk(rpc, &dice, t)
	}
	if found >= len(r.rules) {
		return d
	}
	d.Rule = &r.rules[found]
	d.send(rpc, &dice, splitRoll+uint64(found), t)
	return d
}

// send fills in where the rule sends the RPC.
func (d *Decision) send(rpc *RPC, dice *dice, number uint64, t *Trace) {
	if s := d.Rule.split; s != nil {
		seen := t.split(d.Rule, rpc)
		d.join(s.choose(rpc, dice, number, seen).Group)
		seen.chosen(d.Group)
		return
	}
	if d.Rule.service != "" {
		d.Service = d.Rule.service
	}
	d.Subset = d.Rule.subset
}

// placed says that a part of the service is chosen for good.
func (d *Decision) placed() bool {
	return d.Subset != "" && (d.Rule == nil || !d.Rule.Yields)
}

// join sends the RPC where a group goes.
func (d *Decision) join(g *Group) {
	d.Group, d.Subset = g, g.subset
	if g.service != "" {
		d.Service = g.service
	}
}
