package policy

import (
	"fmt"
	"slices"
)

// SplitChance is one of the things that split policies may make of an RPC, and how likely
// it is.
type SplitChance struct {
	// Decision is where the RPC goes.
	Decision Decision
	// Groups are those of split policies that it is in, in their order.
	Groups []Chosen
	// Share is how likely it is, from above 0 to 1.
	Share float64
	// Seen is what became of each policy, in their order.
	Seen []SplitTrace

	placed bool
}

// manyChances is how many chances there may be for policies that only name groups to
// have theirs told apart.
const manyChances = 64

// Chances returns all that [Splits.Decide] may make of an RPC for which the route decided
// that: one thing only, unless something is left to chance.
func (s *Splits) Chances(rpc *RPC, d Decision) []SplitChance {
	chances := []SplitChance{{Decision: d, Share: 1, placed: d.placed()}}
	if s == nil {
		return chances
	}
	for _, p := range s.list {
		var next []SplitChance
		for i := range chances {
			next = append(next, p.chances(rpc, &chances[i], len(chances) >= manyChances)...)
		}
		chances = next
	}
	return chances
}

// chances returns what the policy may make of what those before it have made. many: there
// are many chances already.
func (p *splitPolicy) chances(rpc *RPC, before *SplitChance, many bool) []SplitChance {
	seen := SplitTrace{Policy: p.name, Bucket: -1}
	part := float64(p.match.part()) / shares
	failed, number := p.failing(rpc, nil)
	seen.Why = p.passedOver(before.placed, maxGroups-len(before.Groups))
	switch {
	case failed != partNone:
		seen.Why = p.why(rpc, failed, number)
	case seen.Why != "":
	case part == 0:
		seen.Why = "it is for none of such RPCs"
	case many && !p.places:
		seen.Why = "by chance it may be in one of its groups, which is not told apart because so much is left to chance"
	}
	if seen.Why != "" {
		return []SplitChance{before.and(seen, 1)}
	}
	var all []SplitChance
	if part < 1 {
		out := seen
		out.Why = fmt.Sprintf("by chance, for %s of such RPCs", Percent(1-part))
		all = append(all, before.and(out, 1-part))
	}
	seen.begin(p.split, rpc)
	dice := dice{random: func() uint64 { return 0 }}
	if c := p.split.choose(rpc, &dice, p.number, &seen); !dice.drawn {
		return append(all, before.in(seen, c, part))
	}
	seen.Bucket = -1
	for i := range p.split.groups {
		if g := &p.split.groups[i]; g.weight > 0 {
			all = append(all, before.in(seen, Chosen{Group: g}, part*float64(g.weight)/shares))
		}
	}
	return all
}

// and returns the chance with what became of one more policy.
func (c *SplitChance) and(seen SplitTrace, share float64) SplitChance {
	next := *c
	next.Seen = append(slices.Clip(c.Seen), seen)
	next.Share *= share
	return next
}

// in returns the chance with one more group.
func (c *SplitChance) in(seen SplitTrace, group Chosen, share float64) SplitChance {
	seen.chosen(group.Group)
	next := c.and(seen, share)
	next.Groups = append(slices.Clip(c.Groups), group)
	if group.places() {
		next.Decision.place(group.Group)
		next.placed = true
	}
	return next
}
