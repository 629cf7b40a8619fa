package policy

import (
	"fmt"
	"strconv"
)

// Chance is one of the decisions that may be made of an RPC, and how likely it is.
type Chance struct {
	Decision Decision
	// Share is how likely it is, from above 0 to 1.
	Share float64
}

// Chances returns all decisions that [Route.Decide] may make of an RPC, in the order of
// the rules: one only, unless something is left to chance. The trace, which may be nil,
// says of each rule whether it may decide, and how the group is chosen where just one
// rule with a split may.
func (r *Route) Chances(rpc *RPC, addressed string, t *Trace) []Chance {
	if r == nil {
		return []Chance{{Decision: Decision{Service: addressed}, Share: 1}}
	}
	var chances []Chance
	var splits []*Rule
	var last *Rule // takes all that the rules before it leave
	left := 1.0
	for i := range r.rules {
		rule := &r.rules[i]
		failed, condition := rule.match.failing(rpc)
		part := float64(rule.match.part()) / shares
		step := RuleTrace{Policy: rule.Policy, Rule: rule.Name, Matched: failed == partNone && part > 0}
		switch {
		case failed != partNone:
			step.Why = rule.match.why(rpc, failed, condition)
		case last != nil:
			step.Why = fmt.Sprintf("rule %q comes before it and matches", last.Name)
		case part == 0:
			step.Why = "it is for none of such RPCs"
		default:
			step.Decided = left*part == 1
			if step.Decided || part == 1 {
				last = rule
			}
			if !step.Decided {
				step.Why = "by chance, for " + Percent(left*part) + " of such RPCs"
			}
			chances = append(chances, rule.chances(rpc, addressed, left*part)...)
			left *= 1 - part
			if rule.split != nil {
				splits = append(splits, rule)
			}
		}
		if t != nil {
			t.Rules = append(t.Rules, step)
		}
	}
	if last == nil {
		chances = append(chances, Chance{Decision: Decision{Service: addressed}, Share: left})
	}
	if t != nil && len(splits) == 1 {
		splits[0].traceSplit(rpc, t)
	}
	return chances
}

// chances returns the decisions that a rule may make of RPCs for which it is.
func (r *Rule) chances(rpc *RPC, addressed string, share float64) []Chance {
	d := Decision{Rule: r, Service: addressed}
	dice := dice{random: func() uint64 { return 0 }}
	d.send(rpc, &dice, splitRoll, nil)
	if !dice.drawn {
		return []Chance{{Decision: d, Share: share}}
	}
	var chances []Chance
	for i := range r.split.groups {
		g := &r.split.groups[i]
		if g.weight == 0 {
			continue
		}
		d := Decision{Rule: r, Service: addressed}
		d.join(g)
		chances = append(chances, Chance{Decision: d, Share: share * float64(g.weight) / shares})
	}
	return chances
}

// traceSplit says how the group of an RPC is chosen; where that is by chance, no group
// and no bucket is named.
func (r *Rule) traceSplit(rpc *RPC, t *Trace) {
	var d Decision
	d.Rule = r
	dice := dice{random: func() uint64 { return 0 }}
	d.send(rpc, &dice, splitRoll, t)
	if dice.drawn {
		t.Split.Group, t.Split.Bucket = "", -1
	}
}

// Percent writes a share from 0 to 1 for people: "12.5 %".
func Percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 4, 64) + " %" }
