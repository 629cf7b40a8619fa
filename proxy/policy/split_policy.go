package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

const (
	// maxSplits is how many split policies a service may have by its name, and how many
	// all services may: an RPC is looked at by each.
	maxSplits = 32
	// maxGroups is in how many groups of split policies an RPC is at most.
	maxGroups = 8
)

// splitPolicy is a compiled policy of the kind `split`.
type splitPolicy struct {
	name   string
	order  uint32
	number uint64 // of what it draws by chance
	match  *Match
	ranges []keyRange
	split  *split
	places bool // one of its groups is somewhere
}

// keyRange is a part of all keys.
type keyRange struct {
	key        *HashKey
	seed       uint64
	start, end uint32
}

// has says whether the RPC's key lies in the part.
func (k *keyRange) has(rpc *RPC) bool {
	hash, found := k.key.seeded(rpc, k.seed)
	if !found {
		return false
	}
	at := share(hash)
	return at >= k.start && at < k.end
}

// failing returns the first part of what the policy asks for that an RPC fails: of the
// match, or of the ranges. Chance is not its business.
func (p *splitPolicy) failing(rpc *RPC, v *values) (failed part, number int) {
	if failed, number = p.match.failingBut(rpc, partNone, v); failed != partNone {
		return failed, number
	}
	for i := range p.ranges {
		if p.ranges[i].has(rpc) {
			continue
		}
		if p.split.forced(rpc, nil) != nil {
			break // who is given a group, or asks for one, has it wherever he lies
		}
		return partRange, i
	}
	return partNone, 0
}

// why says in words what an RPC fails.
func (p *splitPolicy) why(rpc *RPC, failed part, number int) string {
	if failed != partRange {
		return p.match.why(rpc, failed, number)
	}
	k := &p.ranges[number]
	hash, found := k.key.seeded(rpc, k.seed)
	if !found {
		return fmt.Sprintf("the RPC has no %s, and so lies in no range", k.key)
	}
	return fmt.Sprintf("by its %s the RPC is at %d, and the range is %d-%d", k.key, share(hash), k.start, int(k.end)-1)
}

// Splits are the split policies that hold for RPCs to a method, in their order. A nil one
// has none.
type Splits struct{ list []*splitPolicy }

// Decide finds the groups that an RPC is in, and has the first of them that is somewhere
// decide where it goes, unless d has a part of a service already. A policy of which a
// group is somewhere, when that is decided, is passed over as a whole: were only some of
// its groups, they could not be compared with the others. The groups are appended to
// chosen, in the order of the policies. The trace is nil for real RPCs.
func (s *Splits) Decide(rpc *RPC, d *Decision, chosen []Chosen, t *Trace) []Chosen {
	if s == nil {
		return chosen
	}
	dice := dice{random: rpc.Random}
	placed, room := d.placed(), maxGroups
	for _, p := range s.list {
		seen := t.policy(p)
		if failed, number := p.failing(rpc, &dice.values); failed != partNone {
			if seen != nil {
				seen.Why = p.why(rpc, failed, number)
			}
			continue
		}
		if why := p.passedOver(placed, room); why != "" {
			seen.because(why)
			continue
		}
		if !p.match.drawn(&dice, p.number+1) {
			if seen != nil {
				seen.Why = fmt.Sprintf("it is for %d/%d of such RPCs, and by chance this is none of them", p.match.part(), shares)
			}
			continue
		}
		if seen != nil {
			seen.begin(p.split, rpc)
		}
		c := p.split.choose(rpc, &dice, p.number, seen)
		seen.chosen(c.Group)
		chosen, room = append(chosen, c), room-1
		if c.places() {
			d.place(c.Group)
			placed = true
		}
	}
	return chosen
}

// passedOver says why a policy does nothing to an RPC that it is for; "": it does.
func (p *splitPolicy) passedOver(placed bool, room int) string {
	switch {
	case placed && p.places:
		return "where the RPC goes is decided already"
	case room == 0:
		return "the RPC is in as many groups as it may be"
	}
	return ""
}

// place sends the RPC where a group of a split policy goes. Where its rule has yielded, it
// is in none of the rule's groups.
func (d *Decision) place(g *Group) {
	if d.Subset != "" {
		d.Group = nil
	}
	d.Subset = g.subset
	if g.service != "" {
		d.Service = g.service
	}
}

// policy begins the trace of a split policy.
func (t *Trace) policy(p *splitPolicy) *SplitTrace {
	if t == nil {
		return nil
	}
	t.Policies = append(t.Policies, SplitTrace{Policy: p.name, Bucket: -1})
	return &t.Policies[len(t.Policies)-1]
}

func (t *SplitTrace) because(why string) {
	if t != nil {
		t.Why = why
	}
}

// Change changes the request as the route's rule, its group, and the groups of split
// policies say, in this order, and returns the fields. Those of the RPC are not to be
// looked at afterwards. Where several groups are told under one key, the app finds them
// there one after the other.
func (d *Decision) Change(rpc *RPC, chosen []Chosen) []hpack.Field {
	fields, changed := rpc.Fields, false
	if d.Rule != nil {
		change := d.Rule.Request
		if d.Group != nil {
			change = d.Group.Request // which has the rule's in it
		}
		fields, changed = change.ApplyTo(rpc), change != nil
	}
	for i := range chosen {
		change := d.changeOf(chosen, i)
		if changed {
			fields = change.Apply(fields)
			continue
		}
		fields, changed = change.ApplyTo(rpc), change != nil
	}
	return fields
}

// changeOf is the change of one of the groups of split policies.
func (d *Decision) changeOf(chosen []Chosen, i int) *Change {
	g := chosen[i].Group
	if g.KeyName == "" {
		return g.Request
	}
	taken := d.Group != nil && d.Group.KeyName == g.KeyName
	for j := range i {
		taken = taken || chosen[j].KeyName == g.KeyName
	}
	if taken {
		return g.further
	}
	return g.Request
}

// mergeSplits gathers the split policies for each of their selectors. nil: there are none.
func mergeSplits(entries []*entry) *table[*Splits] {
	var all []*entry
	for _, e := range entries {
		if e.kind == KindSplit {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.split.order, b.split.order), strings.Compare(a.name(), b.name()))
	})
	values := map[selector]*Splits{}
	for _, e := range all {
		for _, s := range e.selectors {
			if values[s] != nil {
				continue
			}
			// Whatever selects a method that s selects the most exactly, covers s.
			splits := &Splits{}
			for _, other := range all {
				if coveredByAny(s, other.selectors) {
					splits.list = append(splits.list, other.split)
				}
			}
			values[s] = splits
		}
	}
	return newTable(values)
}

// compileSplitPolicy compiles a policy of the kind.
func (p *problems) compileSplitPolicy(m *configv1.SplitPolicy) *splitPolicy {
	s := &splitPolicy{
		name: p.policy, order: m.GetOrder(), number: xxhash.Sum64String(p.policy),
		match: p.compileMatch("split.match", m.GetMatch()),
	}
	for i, r := range m.GetRanges() {
		field := at("split.ranges", i)
		if r.GetKey() == nil {
			p.addf(field+".key", "is missing: write what the range is of (metadata, cookie or caller)")
		}
		if r.GetStart() >= r.GetEnd() {
			p.addf(field, "no key is from %d up to and without %d: end has to be above start", r.GetStart(), r.GetEnd())
		}
		s.ranges = append(s.ranges, keyRange{
			key:  p.compileHashKey(field+".key", r.GetKey()),
			seed: xxhash.Sum64String(r.GetSeed()), start: r.GetStart(), end: r.GetEnd(),
		})
	}
	if m.GetSplit() == nil {
		p.addf("split.split", "is missing: write how RPCs are divided")
		return s
	}
	s.split = p.compileSplit("split.split", m.GetSplit(), "", nil)
	s.places = slices.ContainsFunc(s.split.groups, func(g Group) bool { return g.places() })
	return s
}
