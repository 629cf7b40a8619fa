package policy

import (
	"fmt"
	"strings"
)

// Trace is what people are told of a decision.
type Trace struct {
	// Rules are all rules of the route, in their order.
	Rules []RuleTrace
	// Split is how the group was chosen; nil: the rule has no split.
	Split *SplitTrace
	// Policies are what became of the split policies, in their order.
	Policies []SplitTrace
}

// RuleTrace says what became of one rule.
type RuleTrace struct {
	Policy string
	Rule   string
	// Matched: the rule is for such an RPC. Of several the first decides.
	Matched bool
	// Decided: this is the rule that decides.
	Decided bool
	// Why says why the rule does not match, or does not decide.
	Why string
}

// SplitTrace says how a group was chosen.
type SplitTrace struct {
	Policy string
	Rule   string // "": that of a split policy
	// Holds: the RPC is in one of the groups. Of what does not, only Why is said more.
	Holds bool
	// Group is the group that was chosen, and Why the reason.
	Group string
	Why   string
	// Places: the group is where the RPC goes, and not just a name.
	Places bool
	// Seed and Key are what was hashed; both are missing where it was left to chance.
	Seed string
	Key  string
	// Bucket is the RPC's bucket; -1: it needed none.
	Bucket int
	// Segments are the groups' buckets.
	Segments []SegmentTrace
}

// SegmentTrace is a run of buckets, from From up to and without End.
type SegmentTrace struct {
	Group string
	From  int
	End   int
}

// walk looks at all rules, one after the other, and returns the number of the first
// that matches, or how many there are.
func (r *Route) walk(rpc *RPC, d *dice, t *Trace) int {
	found := len(r.rules)
	for i := range r.rules {
		rule := &r.rules[i]
		step := RuleTrace{Policy: rule.Policy, Rule: rule.Name}
		switch failed, condition := rule.match.failing(rpc); {
		case failed != partNone:
			step.Why = rule.match.why(rpc, failed, condition)
		case found < len(r.rules):
			// Chance is left alone here: it has nothing to decide any more.
			step.Matched = rule.match.part() > 0
			step.Why = fmt.Sprintf("rule %q comes before it and matches", r.rules[found].Name)
			if n := rule.match.part(); n < shares {
				step.Why += fmt.Sprintf(" (this one is for %d/%d of such RPCs)", n, shares)
			}
		case !rule.match.drawn(d, uint64(i)):
			step.Why = fmt.Sprintf("it is for %d/%d of such RPCs, and by chance this is none of them", rule.match.part(), shares)
		default:
			step.Matched, step.Decided = true, true
			found = i
		}
		t.Rules = append(t.Rules, step)
	}
	return found
}

// why says in words which part of the match an RPC fails.
func (m *Match) why(rpc *RPC, failed part, condition int) string {
	switch failed {
	case partMethods:
		return fmt.Sprintf("the method %s is none of the rule's", strings.TrimPrefix(rpc.Path, "/"))
	case partCallers:
		if rpc.Caller == "" {
			return "the caller is not known, and the rule is for certain callers"
		}
		return fmt.Sprintf("the caller %q is none of the rule's", rpc.Caller)
	case partCondition:
		return m.conditions[condition].why(rpc.Fields)
	}
	return ""
}

// split begins the trace of a rule's split. All traces may be nil.
func (t *Trace) split(rule *Rule, rpc *RPC) *SplitTrace {
	if t == nil {
		return nil
	}
	t.Split = &SplitTrace{Policy: rule.Policy, Rule: rule.Name}
	t.Split.begin(rule.split, rpc)
	return t.Split
}

// begin says how a split goes about an RPC.
func (t *SplitTrace) begin(s *split, rpc *RPC) {
	t.Holds, t.Bucket, t.Why = true, -1, "by chance"
	from := 0
	for _, segment := range s.segments {
		t.Segments = append(t.Segments, SegmentTrace{Group: s.groups[segment.group].Name, From: from, End: int(segment.end)})
		from = int(segment.end)
	}
	if s.key != nil {
		key, found := s.key.Key(rpc)
		switch {
		case found:
			t.Seed, t.Key = s.seedText, strings.Clone(key)
			t.Why = fmt.Sprintf("by %s %q with the seed %q", s.key, key, s.seedText)
		case s.missing != nil:
			t.Why = fmt.Sprintf("the RPC has no %s, and %q is the group of those", s.key, s.missing.Name)
		default:
			t.Why = fmt.Sprintf("by chance, because the RPC has no %s", s.key)
		}
	}
	if name, count := one(rpc.Fields, ForceKey); count > 0 {
		switch {
		case !s.allowForce:
			t.Why += fmt.Sprintf("; %s is ignored, because the split does not allow it", ForceKey)
		case count > 1:
			t.Why += fmt.Sprintf("; %s is ignored, because it is there %d times", ForceKey, count)
		case s.named(name) == nil:
			t.Why += fmt.Sprintf("; %s is ignored, because %q is none of the groups", ForceKey, name)
		}
	}
}

func (t *SplitTrace) forced(g *Group) {
	if t == nil {
		return
	}
	t.Why = fmt.Sprintf("the caller asked for it (%s: %s)", ForceKey, g.Name)
	t.Seed, t.Key = "", ""
}

func (t *SplitTrace) given() {
	if t != nil {
		t.Why = fmt.Sprintf("the policy gives %q its group by name (sticky.forced)", t.Key)
		t.Seed, t.Key = "", ""
	}
}

func (t *SplitTrace) bucket(bucket uint32) {
	if t != nil {
		t.Bucket = int(bucket)
	}
}

func (t *SplitTrace) chosen(g *Group) {
	if t != nil {
		t.Group, t.Places = g.Name, g.places()
	}
}
