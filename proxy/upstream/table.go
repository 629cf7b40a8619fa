package upstream

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// table is what RPCs see: it is replaced as a whole.
type table struct {
	policy    *Policy
	instances []*Instance
	stale     bool
	all       *view // of all instances
	subsets   map[string]*view
	byDefault *view         // of RPCs that name no subset; nil: there is no such subset
	period    time.Duration // see Policy.period
	rnd       func() uint64
}

// view returns the view of a subset, or of RPCs that name none. It is nil where
// there is no such subset.
func (t *table) view(subset string) *view {
	if subset == "" {
		return t.byDefault
	}
	return t.subsets[subset]
}

// views calls f with each view.
func (t *table) views(f func(*view)) {
	f(t.all)
	for _, v := range t.subsets {
		f(v)
	}
}

// pick returns an instance for an RPC, and the view that it is from.
func (t *table) pick(ch *Choice, peek bool) (*Instance, *view) {
	v := t.view(ch.Subset)
	if v == nil {
		return nil, nil
	}
	q := balance.Query[*Instance]{Skip: ch.Skip, Hash: ch.Hash, Hashed: ch.Hashed, Peek: peek}
	if t.policy.Balance.Policy == balance.EWMA {
		now := ch.Now
		if now.IsZero() {
			now = time.Now()
		}
		q.Now = now.UnixNano()
	}
	if in, ok := v.pick(&q, t.rnd); ok {
		return in, v
	}
	for _, next := range v.fallback {
		// While some of it can be used, though not for this RPC, which has tried
		// them, another subset is not wanted.
		if v.usable() {
			return nil, nil
		}
		if in, ok := next.pick(&q, t.rnd); ok {
			return in, next
		}
		v = next
	}
	return nil, nil
}

// view is the instances that RPCs to a subset may go to, or those of all RPCs.
type view struct {
	subset     string // "": all instances
	policy     *Policy
	near, far  tier // far is empty where all are alike
	fallback   []*view
	meanWeight float64 // of the instances as the registry says

	// inUse says that there was an RPC. Nothing is made or looked at for what
	// nobody uses.
	inUse atomic.Bool

	// What look saw last.

	panicking atomic.Bool
	nearShare atomic.Uint32 // in 1/65536
	turn      atomic.Uint32 // of pickInTurn
}

// pick picks one of the view's instances.
func (v *view) pick(q *balance.Query[*Instance], rnd func() uint64) (*Instance, bool) {
	if !v.inUse.Load() {
		v.look()
		v.inUse.Store(true)
	}
	q.Panic = v.panicking.Load()
	in, ok := v.pickNow(q, rnd)
	if !ok && !q.Panic && v.policy.PanicPercent > 0 {
		// Many may have become unwell since somebody looked.
		if v.look(); v.panicking.Load() {
			q.Panic = true
			return v.pickNow(q, rnd)
		}
	}
	return in, ok
}

func (v *view) pickNow(q *balance.Query[*Instance], rnd func() uint64) (*Instance, bool) {
	if len(v.far.instances) == 0 {
		return v.near.pick(q)
	}
	return v.pickByPlace(q, rnd)
}

// usable reports whether any of the view's instances can be used.
func (v *view) usable() bool {
	panicking := v.panicking.Load()
	for i := range v.size() {
		if in := v.at(i); in.Usable() || panicking && in.Reachable() {
			return true
		}
	}
	return false
}

// size is how many instances the view has.
func (v *view) size() int { return len(v.near.instances) + len(v.far.instances) }

// pickInTurn returns one of the instances that will do, each in its turn.
func (v *view) pickInTurn(willDo func(*Instance) bool) (*Instance, bool) {
	n := uint32(v.size())
	first := v.turn.Add(1)
	for i := range n {
		if in := v.at(int((first + i) % n)); willDo(in) {
			return in, true
		}
	}
	return nil, false
}

// at returns the view's i-th instance.
func (v *view) at(i int) *Instance {
	if n := len(v.near.instances); i >= n {
		return v.far.instances[i-n]
	}
	return v.near.instances[i]
}

// look sees how well the instances are.
func (v *view) look() {
	near, far := v.near.look(), v.far.look()
	panicking := 100*(near.well+far.well) < v.policy.PanicPercent*(near.all+far.all)
	v.panicking.Store(panicking)
	if l := v.policy.Locality; l != nil && far.all > 0 {
		if panicking {
			near.well, far.well = near.reachable, far.reachable
		}
		v.nearShare.Store(nearShare(near.fitness, far.fitness, l.Overprovisioning))
	}
}

// tier is those of a view's instances that are as near as each other.
type tier struct {
	instances []*Instance
	weights   []uint32 // as the registry says
	load      *balance.Load
	options   *balance.Options
	rnd       func() uint64
	choosing  atomic.Pointer[choosing] // nil until there is an RPC
}

// choosing is how one of a tier's instances is picked, by the weights that they
// have now.
type choosing struct {
	picker  balance.Picker[*Instance]
	weights []uint32
}

// begin makes the tier's picker. before is the one of the tier that this one takes
// the place of, if there was one.
func (t *tier) begin(weights []uint32, before balance.Picker[*Instance]) *choosing {
	set := balance.Set[*Instance]{Instances: t.instances, Weights: weights, Load: t.load}
	c := &choosing{balance.New(*t.options, set, t.rnd, before), weights}
	if t.choosing.CompareAndSwap(nil, c) {
		return c
	}
	return t.choosing.Load()
}

func (t *tier) pick(q *balance.Query[*Instance]) (*Instance, bool) {
	return t.current().picker.Pick(*q)
}

// current returns how an instance is picked now.
func (t *tier) current() *choosing {
	if c := t.choosing.Load(); c != nil {
		return c
	}
	return t.begin(t.weights, nil)
}

// seen is what look sees of a tier.
type seen struct {
	fitness
	reachable int
	rpcs      int64
}

func (t *tier) look() (s seen) {
	var usable uint64
	for i, in := range t.instances {
		s.rpcs += in.InFlight()
		if in.Reachable() {
			s.reachable++
			if in.Usable() {
				s.well++
				usable += uint64(t.weights[i])
			}
		}
	}
	s.all = len(t.instances)
	if t.load != nil {
		t.load.Seen(s.rpcs, usable)
	}
	return s
}

// newTable makes the table for the instances under a policy. What of it is as it was
// in before goes on as it is. c.mu is held.
func (c *Cluster) newTable(p *Policy, instances []*Instance, stale bool, before *table, now time.Time) *table {
	t := &table{policy: p, instances: instances, stale: stale, period: p.period(), rnd: c.opts.Random}
	t.all = c.newView(p, "", instances, before, now)
	if len(p.Subsets) > 0 {
		t.subsets = make(map[string]*view, len(p.Subsets))
	}
	for name, subset := range p.Subsets {
		var members []*Instance
		for _, in := range instances {
			if subset.has(in.Endpoint()) {
				members = append(members, in)
			}
		}
		t.subsets[name] = c.newView(p, name, members, before, now)
	}
	for name, v := range t.subsets {
		v.fallback = fallbacks(name, p.Subsets, t.subsets, t.all)
	}
	if t.byDefault = t.all; p.DefaultSubset != "" {
		t.byDefault = t.subsets[p.DefaultSubset]
	}
	if v := t.byDefault; v != nil && p.Balance.Policy.Hashes() {
		// Most RPCs need it, and the first must not wait until a large table is made.
		v.near.current()
		v.far.current()
	}
	c.countIn(t)
	return t
}

// newView makes the view of a subset, or of all instances. c.mu is held.
func (c *Cluster) newView(p *Policy, subset string, members []*Instance, before *table, now time.Time) *view {
	near, far := c.places(p, members)
	near, far = subsetOf(near, p.SubsetSize, c.opts.Salt), subsetOf(far, p.SubsetSize, c.opts.Salt)
	v := &view{subset: subset, policy: p}
	v.near.set(p, near, c.opts.Random, c.load(p, subset, "near"))
	v.far.set(p, far, c.opts.Random, c.load(p, subset, "far"))
	var sum uint64
	for i := range v.size() {
		sum += uint64(max(v.at(i).Endpoint().Weight, 1))
	}
	v.meanWeight = float64(sum) / float64(max(v.size(), 1))
	if old := before.named(subset); old != nil {
		v.turn.Store(old.turn.Load())
		v.near.follow(&old.near, p, now)
		v.far.follow(&old.far, p, now)
		if old.inUse.Load() {
			v.look()
			v.inUse.Store(true)
		}
	}
	return v
}

// named returns the view of a subset, or of all instances. t may be nil.
func (t *table) named(subset string) *view {
	switch {
	case t == nil:
		return nil
	case subset == "":
		return t.all
	}
	return t.subsets[subset]
}

// places divides instances into those that are near and those that are not. Where
// place does not matter, or none is near, all count as near.
func (c *Cluster) places(p *Policy, instances []*Instance) (near, far []*Instance) {
	if p.Locality == nil {
		return instances, nil
	}
	here := c.opts.Meta[p.Locality.Key]
	if here == "" {
		return instances, nil
	}
	for _, in := range instances {
		if in.Endpoint().Meta[p.Locality.Key] == here {
			near = append(near, in)
		} else {
			far = append(far, in)
		}
	}
	if len(near) == 0 {
		return far, nil
	}
	return near, far
}

// set says what the tier consists of.
func (t *tier) set(p *Policy, instances []*Instance, rnd func() uint64, load *balance.Load) {
	t.instances, t.load, t.options, t.rnd = instances, load, &p.Balance, rnd
	t.weights = make([]uint32, len(instances))
	for i, in := range instances {
		t.weights[i] = max(in.Endpoint().Weight, 1)
	}
}

// follow has the tier go on where the one was whose place it takes. Cluster.mu is
// held.
func (t *tier) follow(before *tier, p *Policy, now time.Time) {
	was := before.choosing.Load()
	if was == nil {
		return
	}
	weights := weigh(p, t.instances, t.weights, now)
	if *t.options == *before.options && slices.Equal(t.instances, before.instances) &&
		t.load == before.load && slices.Equal(weights, was.weights) {
		t.choosing.Store(was)
		return
	}
	t.begin(weights, was.picker)
}

// load returns what counts the RPCs of a part of a view, nil where there are no
// bounded loads. There is one for the cluster's life, as RPCs outlive tables. c.mu is
// held.
func (c *Cluster) load(p *Policy, subset, place string) *balance.Load {
	if !p.bounded() {
		return nil
	}
	key := place + " " + subset
	if c.loads[key] == nil {
		if c.loads == nil {
			c.loads = make(map[string]*balance.Load)
		}
		c.loads[key] = new(balance.Load)
	}
	return c.loads[key]
}

// countIn has the instances' RPCs counted in the loads of all that they are part of,
// from now on. c.mu is held.
func (c *Cluster) countIn(t *table) {
	if len(c.loads) == 0 {
		return
	}
	in := make(map[*Instance]loads)
	t.views(func(v *view) {
		for _, tier := range [...]*tier{&v.near, &v.far} {
			if tier.load == nil {
				continue
			}
			for _, i := range tier.instances {
				in[i] = append(in[i], tier.load)
			}
			tier.load.Changed(tier.look().rpcs)
		}
	})
	for _, i := range t.instances {
		if l := in[i]; len(l) > 0 {
			i.loads.Store(&l)
		} else {
			i.loads.Store(nil)
		}
	}
}
