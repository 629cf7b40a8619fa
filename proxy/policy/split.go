package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// ForceKey is the metadata key by which a caller chooses a group, where the split
// allows it.
const ForceKey = "pillion-force"

var forceKey = newKey(ForceKey)

// Group is one of a split's destinations.
type Group struct {
	// Name is what metrics, logs and the app know it by.
	Name string
	// KeyName is the metadata key in which the app is told the name; "": it is not.
	KeyName string
	// Request is what changes in the request for this group: what the rule says, and
	// then what the group does. It sets KeyName too, in the place of what the caller
	// wrote there.
	Request *Change
	// Counts counts the group's RPCs; nil: nobody wants to know.
	Counts *telemetry.Group
	// Observer is told of the group's RPCs; nil: nobody is. Those of routes have none.
	Observer telemetry.Observer

	// further is Request for an RPC that is in a group before this one which tells the
	// app under the same key: the name is told beside that one's.
	further         *Change
	service, subset string
	weight          int
}

// places says that the group is somewhere, and not just a name.
func (g *Group) places() bool { return g.service != "" || g.subset != "" }

// Chosen is a group that an RPC is in.
type Chosen struct {
	*Group
	// Unit tells units apart, which are what the split sticks to: it is the hash of key and
	// seed that the group follows from ([Assignment]), so the same on every sidecar. 0: the
	// RPC has no key, or the split does not stick to one.
	Unit uint64
	// Forced: the group was asked for by name, by the caller or for the key.
	Forced bool
}

// split divides RPCs among groups.
type split struct {
	groups     []Group
	segments   []segment
	key        *HashKey // nil: at random
	seedText   string
	seed       uint64
	missing    *Group // of RPCs without a key; nil: at random
	allowForce bool
	given      map[string]*Group // keys that are given a group by name; nil: none
}

// segment is a run of buckets that belong to one group.
type segment struct {
	end   uint32 // the first bucket beyond it
	group int32
}

// groupAt returns the group that a bucket belongs to.
func (s *split) groupAt(bucket uint32) *Group {
	low, high := 0, len(s.segments)-1
	for low < high {
		middle := int(uint(low+high) >> 1)
		if s.segments[middle].end <= bucket {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return &s.groups[s.segments[low].group]
}

// forced returns the group that the RPC's key is given by name, or else that the caller
// asks for, where that is allowed and there is one of the name.
func (s *split) forced(rpc *RPC, t *SplitTrace) *Group {
	if s.given != nil {
		if key, found := s.key.Key(rpc); found {
			if g := s.given[key]; g != nil {
				t.given()
				return g
			}
		}
	}
	if !s.allowForce {
		return nil
	}
	name, count := rpc.one(&forceKey)
	if count != 1 {
		return nil
	}
	g := s.named(name)
	if g != nil {
		t.forced(g)
	}
	return g
}

func (s *split) named(name string) *Group {
	for i := range s.groups {
		if s.groups[i].Name == name {
			return &s.groups[i]
		}
	}
	return nil
}

// choose returns the RPC's group.
func (s *split) choose(rpc *RPC, d *dice, number uint64, t *SplitTrace) Chosen {
	var c Chosen
	hash, found := uint64(0), false
	if s.key != nil {
		if hash, found = s.key.seeded(rpc, s.seed); found {
			c.Unit = max(hash, 1)
		}
	}
	if c.Group = s.forced(rpc, t); c.Group != nil {
		c.Forced = true
		return c
	}
	if !found && s.missing != nil {
		c.Group = s.missing
		return c
	}
	bucket := share(hash)
	if !found {
		bucket = d.roll(number)
	}
	t.bucket(bucket)
	c.Group = s.groupAt(bucket)
	return c
}

// layOut gives each group as many of the buckets as its weight says. The first group
// has what the others leave. The second grows from the bottom and the third from the
// top, so whatever their weights, raising one takes buckets from the first group
// only, and lowering it gives them back. Further ones grow outward from anchors of
// their own, around what is taken already.
func layOut(weights []int) []segment {
	var owner [shares]int32 // 0: the first group
	for g := 1; g < len(weights); g++ {
		switch g {
		case 1:
			for i := range weights[g] {
				owner[i] = 1
			}
		case 2:
			for i := range weights[g] {
				owner[shares-1-i] = 2
			}
		default:
			growFrom(&owner, anchor(g-2), int32(g), weights[g])
		}
	}
	var segments []segment
	for i, g := range owner {
		if i == 0 || g != owner[i-1] {
			segments = append(segments, segment{group: g})
		}
		segments[len(segments)-1].end = uint32(i + 1)
	}
	return slices.Clip(segments)
}

// growFrom gives a group that many free buckets, the nearest to a place first.
func growFrom(owner *[shares]int32, from int, group int32, count int) {
	for distance := 0; count > 0 && distance < shares; distance++ {
		for _, i := range [2]int{from + distance, from - 1 - distance} {
			if count > 0 && i >= 0 && i < shares && owner[i] == 0 {
				owner[i] = group
				count--
			}
		}
	}
}

// anchor returns where the nth group beyond the third grows from: 1/2, 1/4, 3/4, 1/8
// and so on of all buckets (van der Corput's sequence), as far from each other as can
// be for any number of them.
func anchor(n int) int {
	place, step := 0, shares/2
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			place += step
		}
		step /= 2
	}
	return place
}

// compileSplit compiles the split of a rule, which has the request changed so, or with no
// rule that of a split policy.
func (p *problems) compileSplit(field string, m *configv1.Split, rule string, request *Change) *split {
	s := &split{allowForce: m.GetAllowForce()}
	groupKey := p.groupKey(field+".group_key", m.GetGroupKey())
	weights := make([]int, 0, len(m.GetDestinations()))
	sum := 0
	s.groups = make([]Group, 0, len(m.GetDestinations()))
	for i, d := range m.GetDestinations() {
		field := at(field+".destinations", i)
		g := Group{Name: groupName(d), KeyName: groupKey, service: d.GetService(), subset: d.GetSubset(), weight: int(d.GetWeight())}
		switch {
		case g.Name == "":
			p.addf(field, "has no group, subset or service to be called by: write one of them")
		case s.named(g.Name) != nil:
			p.addf(field, "is the second group named %q: give it a name of its own (group)", g.Name)
		}
		g.Request = request.then(p.compileChange(field+".request", d.GetRequest(), groupKey, g.Name))
		key := telemetry.GroupKey{Policy: p.policy, Rule: rule, Group: g.Name}
		if p.env.Group != nil && g.Name != "" {
			g.Counts = p.env.Group(key)
		}
		if rule == "" {
			g.further = g.Request.addInstead(groupKey)
			if p.env.Observer != nil && g.Name != "" {
				g.Observer = p.env.Observer(key)
			}
		}
		s.groups = append(s.groups, g)
		weights = append(weights, g.weight)
		sum += g.weight
	}
	if sum != shares {
		p.addf(field+".destinations", "the weights' sum is %d, not %d", sum, shares)
		return s
	}
	s.segments = layOut(weights)
	if sticky := m.GetSticky(); sticky != nil {
		s.key = p.compileHashKey(field+".sticky.key", sticky.GetKey())
		if s.key == nil && sticky.GetKey() == nil {
			p.addf(field+".sticky.key", "is missing: write what groups stick to (metadata, cookie or caller)")
		}
		s.seedText = sticky.GetSeed()
		if s.seedText == "" {
			s.seedText = strings.TrimSuffix(p.policy+"/"+rule, "/")
		}
		s.seed = xxhash.Sum64String(s.seedText)
		if name := sticky.GetMissing(); name != "" {
			if s.missing = s.named(name); s.missing == nil {
				p.addf(field+".sticky.missing", "%q is none of the split's groups", name)
			}
		}
		s.given = p.compileGiven(field+".sticky.forced", s, sticky.GetForced())
	}
	return s
}

// compileGiven compiles which keys are given a group by name.
func (p *problems) compileGiven(field string, s *split, forced map[string]string) map[string]*Group {
	if len(forced) == 0 {
		return nil
	}
	given := make(map[string]*Group, len(forced))
	for _, key := range slices.Sorted(maps.Keys(forced)) {
		g := s.named(forced[key])
		if g == nil {
			p.addf(of(field, key), "%q is none of the split's groups", forced[key])
			continue
		}
		given[key] = g
	}
	return given
}

// groupKey returns the key in which apps are told their group; "" where they are not.
func (p *problems) groupKey(field, key string) string {
	switch key {
	case "-":
		return ""
	case "":
		return DefaultGroupKey
	}
	if reason := p.keyProblem(key); reason != "" {
		p.addf(field, "%s", reason)
	} else if isBinary(key) {
		p.addf(field, "%q is for bytes, but a group's name is text", key)
	}
	return key
}

func groupName(d *configv1.WeightedDestination) string {
	switch {
	case d.GetGroup() != "":
		return d.GetGroup()
	case d.GetSubset() != "":
		return d.GetSubset()
	}
	return d.GetService()
}
