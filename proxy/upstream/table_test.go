package upstream

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// seeded is randomness that is the same in each run, for many goroutines.
func seeded(seed uint64) func() uint64 {
	rng := rand.New(rand.NewPCG(seed, seed))
	var mu sync.Mutex
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Uint64()
	}
}

// pool is a cluster whose instances nobody connects to.
type pool struct {
	t       testing.TB
	cluster *Cluster
}

func newPool(t testing.TB, o Options, p *Policy, endpoints ...registry.Endpoint) *pool {
	if o.Random == nil {
		o.Random = seeded(1)
	}
	o = o.WithDefaults()
	c := NewCluster("greeter", balance.RoundRobin, &o, new(telemetry.Counters).Service(telemetry.Outbound, "greeter"))
	c.Update(endpoints, false)
	c.Configure(p)
	t.Cleanup(c.Close)
	return &pool{t, c}
}

// endpoint reads "a zone=x version=v1 +canary *3": address, meta, tags and weight.
func endpoint(spec string) registry.Endpoint {
	words := strings.Fields(spec)
	e := registry.Endpoint{ID: words[0], Address: words[0] + ":1", Weight: 1, Meta: map[string]string{}}
	for _, w := range words[1:] {
		if key, value, ok := strings.Cut(w, "="); ok {
			e.Meta[key] = value
		} else if tag, ok := strings.CutPrefix(w, "+"); ok {
			e.Tags = append(e.Tags, tag)
		} else if _, err := fmt.Sscanf(w, "*%d", &e.Weight); err != nil {
			panic(err)
		}
	}
	return e
}

func endpoints(specs ...string) (es []registry.Endpoint) {
	for _, s := range specs {
		es = append(es, endpoint(s))
	}
	return es
}

// numbered returns n endpoints.
func numbered(n int, rest string) (es []registry.Endpoint) {
	for i := range n {
		es = append(es, endpoint(fmt.Sprintf("i%d %s", i, rest)))
	}
	return es
}

func (p *pool) instance(id string) *Instance {
	p.t.Helper()
	for _, in := range p.cluster.table.Load().instances {
		if in.Endpoint().ID == id {
			return in
		}
	}
	p.t.Fatalf("there is no instance %q", id)
	return nil
}

// block has instances be blocked, and no others.
func (p *pool) block(ids ...string) {
	for _, in := range p.cluster.table.Load().instances {
		in.Block(Unhealthy, slices.Contains(ids, in.Endpoint().ID))
	}
}

// avoid has instances be in back-off, and no others.
func (p *pool) avoid(ids ...string) {
	for _, in := range p.cluster.table.Load().instances {
		in.avoided.Store(slices.Contains(ids, in.Endpoint().ID))
	}
}

// pick picks n times and returns how often each was picked; "" is nothing.
func (p *pool) pick(ch *Choice, n int) map[string]int {
	got := map[string]int{}
	for range n {
		if in, ok := p.cluster.Pick(ch); ok {
			got[in.Endpoint().ID]++
		} else {
			got[""]++
		}
	}
	return got
}

// names returns which are picked.
func (p *pool) names(ch *Choice) string {
	return strings.Join(slices.Sorted(maps.Keys(p.pick(ch, 200))), " ")
}

func TestSubsets(t *testing.T) {
	t.Parallel()
	policy := &Policy{
		Subsets: map[string]Subset{
			"v1":     {Meta: map[string]string{"version": "v1"}},
			"v2":     {Meta: map[string]string{"version": "v2"}, Fallback: "v1"},
			"v3":     {Meta: map[string]string{"version": "v3"}, Fallback: FallbackAny},
			"big":    {Tags: []string{"big"}, Meta: map[string]string{"version": "v1"}, Fallback: FallbackNone},
			"both":   {Tags: []string{"big", "new"}, Fallback: "round"},
			"round":  {Tags: []string{"none has it"}, Fallback: "about"},
			"about":  {Tags: []string{"nor this"}, Fallback: "round"},
			"astray": {Tags: []string{"nor this"}, Fallback: "no such subset"},
		},
		DefaultSubset: "v1",
	}
	p := newPool(t, Options{}, policy, endpoints("a version=v1", "b version=v1 +big", "c version=v2 +big +new", "d version=v2")...)
	for _, c := range []struct {
		subset, down, want string
	}{
		{"", "", "a b"},
		{"v1", "", "a b"},
		{"v2", "", "c d"},
		{"v2", "c", "d"},
		{"v2", "c d", "a b"},
		{"v2", "a c d", "b"},
		{"v2", "a b c d", ""},
		{"v3", "", "a b c d"}, // it has none
		{"v3", "a b", "c d"},
		{"big", "", "b"},
		{"big", "b", ""},
		{"both", "", "c"},
		{"both", "c", ""}, // its fallbacks lead round in a circle
		{"astray", "", ""},
		{"unknown", "", ""},
		{"v1", "a b", ""},
	} {
		p.block(strings.Fields(c.down)...)
		if got := p.names(&Choice{Subset: c.subset}); got != c.want {
			t.Errorf("subset %q with %q down: %q are picked, want %q", c.subset, c.down, got, c.want)
		}
	}
	if n, ok := p.cluster.Subset("v2"); n != 2 || !ok {
		t.Errorf("v2 has %d instances (%v)", n, ok)
	}
	if _, ok := p.cluster.Subset("unknown"); ok {
		t.Error("an unknown subset is known")
	}
}

// A retry that has tried all of a subset does not go to another one as long as some of
// it can be used.
func TestFallbackIsNotForRetries(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{}, &Policy{Subsets: map[string]Subset{
		"v1": {Meta: map[string]string{"version": "v1"}, Fallback: FallbackAny},
	}}, endpoints("a version=v1", "b version=v1", "c")...)
	tried := &Choice{Subset: "v1", Skip: func(in *Instance) bool { return in.Endpoint().ID != "c" }}
	if got := p.names(tried); got != "" {
		t.Errorf("with all of a subset tried, %q are picked", got)
	}
	p.block("a", "b")
	if got := p.names(tried); got != "c" {
		t.Errorf("with none of a subset usable, %q are picked", got)
	}
}

// Instances that take long to connect to, or whose sidecar refuses, stand in only
// where they belong to what the RPC wants.
func TestLastResortsObeySubsets(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{}, &Policy{Subsets: map[string]Subset{
		"v1": {Meta: map[string]string{"version": "v1"}},
		"v2": {Meta: map[string]string{"version": "v2"}, Fallback: "v1"},
	}}, endpoints("a version=v1", "b version=v2")...)
	pick := func(f func(*Choice) (*Instance, bool), subset string) string {
		if in, ok := f(&Choice{Subset: subset}); ok {
			return in.Endpoint().ID
		}
		return ""
	}
	for _, c := range []struct {
		what   string
		set    func(in *Instance, on bool)
		choose func(*Choice) (*Instance, bool)
	}{
		{"connecting", func(in *Instance, on bool) { in.slow.Store(on) }, p.cluster.PickConnecting},
		{"refusing", func(in *Instance, on bool) { in.refusal.active.Store(on) }, p.cluster.PickRefusing},
	} {
		a, b := p.instance("a"), p.instance("b")
		c.set(b, true)
		if got := pick(c.choose, "v1"); got != "" {
			t.Errorf("%s: %q of another subset is picked", c.what, got)
		}
		if got := pick(c.choose, "v2"); got != "b" {
			t.Errorf("%s: %q is picked, want b", c.what, got)
		}
		c.set(b, false)
		c.set(a, true)
		if got := pick(c.choose, "v2"); got != "a" {
			t.Errorf("%s: %q is picked, want a, which stands in", c.what, got)
		}
		a.Block(Ejected, true)
		if got := pick(c.choose, "v2"); got != "" {
			t.Errorf("%s: %q is picked, which is ejected", c.what, got)
		}
		a.Block(Ejected, false)
		if got := pick(c.choose, "unknown"); got != "" {
			t.Errorf("%s: %q of an unknown subset is picked", c.what, got)
		}
		c.set(a, false)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		percent          int
		blocked, avoided string
		want             string
	}{
		{0, "a b c d", "", ""},
		{50, "", "", "a b c d"},
		{50, "a b", "", "c d"},
		{50, "a b c", "", "a b c d"},
		{50, "a b c d", "", "a b c d"},
		{50, "a b c", "a", "b c d"}, // what cannot be reached is not used in any case
		{50, "a", "b c", "a d"},
		{50, "", "a b c d", ""},
		{100, "a", "", "a b c d"},
	} {
		p := newPool(t, Options{}, &Policy{PanicPercent: c.percent}, endpoints("a", "b", "c", "d")...)
		p.block(strings.Fields(c.blocked)...)
		p.avoid(strings.Fields(c.avoided)...)
		if got := p.names(nil); got != c.want {
			t.Errorf("threshold %d, blocked %q, in back-off %q: %q are picked, want %q", c.percent, c.blocked, c.avoided, got, c.want)
		}
	}
}

// Panic begins and ends while RPCs go on.
func TestPanicBeginsAndEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		p := newPool(t, Options{}, &Policy{PanicPercent: 50}, endpoints("a", "b", "c", "d")...)
		want := func(what, want string) {
			t.Helper()
			p.cluster.Pick(nil)
			time.Sleep(2 * glance)
			if got := p.names(nil); got != want {
				t.Errorf("%s: %q are picked, want %q", what, got, want)
			}
		}
		want("all are well", "a b c d")
		p.block("a", "b", "c")
		want("one is well", "a b c d")
		p.block("a", "b")
		want("two are well", "c d")
		p.block("a", "b", "c", "d")
		if got := p.names(nil); got != "a b c d" {
			t.Errorf("as soon as none is well, %q are picked", got)
		}
		p.block("a", "b", "c")
		time.Sleep(time.Hour) // nobody looks meanwhile
		p.block("a")
		if got := p.names(nil); got != "b c d" {
			t.Errorf("after an hour without RPCs: %q are picked, want b c d", got)
		}
	})
}

// Policies and endpoints change while RPCs are picked for, and what is the same goes on.
func TestConfigureKeepsWhatStays(t *testing.T) {
	t.Parallel()
	es := endpoints("a version=v1", "b version=v1", "c")
	policy := &Policy{Subsets: map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}}}
	p := newPool(t, Options{}, policy, es...)
	// A rotation goes on whatever is handed over again.
	for range 100 {
		got := p.pick(nil, 2)
		p.cluster.Update(es, true)
		maps.Copy(got, p.pick(nil, 1))
		p.cluster.Configure(&Policy{Subsets: policy.Subsets, PanicPercent: 10})
		if len(got) != 3 {
			t.Fatalf("in three turns, %v are picked", got)
		}
		before := p.pick(&Choice{Subset: "v1"}, 1)
		p.cluster.Configure(policy)
		if after := p.pick(&Choice{Subset: "v1"}, 1); maps.Equal(before, after) {
			t.Fatalf("a subset's rotation begins anew: %v twice", before)
		}
	}
	p.cluster.Configure(&Policy{Balance: balance.Options{Policy: balance.RingHash}})
	picker := p.picker(t)
	p.cluster.Update(es, true)
	if p.picker(t) != picker {
		t.Error("a ring is made anew though nothing of it changed")
	}
	p.cluster.Configure(&Policy{Balance: balance.Options{Policy: balance.RingHash}, PanicPercent: 10})
	if p.picker(t) != picker {
		t.Error("a ring is made anew though the policy says nothing else of it")
	}
	p.cluster.Update(endpoints("a version=v1 *5", "b version=v1", "c"), true)
	if p.picker(t) == picker {
		t.Error("a ring is not made anew though a weight changed")
	}
	p.cluster.Configure(nil)
	if st := p.cluster.Status(); st.Policy != "round_robin" {
		t.Errorf("without a policy, it is %q", st.Policy)
	}
	p.cluster.Configure(&Policy{Balance: balance.Options{Policy: balance.ByDefault}})
	if st := p.cluster.Status(); st.Policy != "round_robin" {
		t.Errorf("with a policy that leaves it open, it is %q", st.Policy)
	}
}

// picker returns what picks among all instances.
func (p *pool) picker(t *testing.T) balance.Picker[*Instance] {
	t.Helper()
	p.cluster.Pick(nil)
	return p.cluster.table.Load().all.near.choosing.Load().picker
}

// Whatever changes, a pick is of an instance that the RPC may have, if there is one.
func TestPicksObeyWhateverChanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Random: seeded(rapid.Uint64().Draw(t, "seed")), Meta: map[string]string{"zone": "x"}}.WithDefaults()
		c := NewCluster("greeter", balance.RoundRobin, &o, new(telemetry.Counters).Service(telemetry.Outbound, "greeter"))
		defer c.Close()
		for range 6 {
			policy := &Policy{
				Balance: balance.Options{
					Policy:   balance.Policy(rapid.IntRange(0, int(balance.ByDefault)).Draw(t, "policy")),
					RingSize: 64, TableSize: 101,
					BoundedLoad: rapid.SampledFrom([]float64{0, 1, 1.5}).Draw(t, "bounded"),
				},
				Subsets: map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}},
			}
			if rapid.Bool().Draw(t, "locality") {
				policy.Locality = &Locality{Key: "zone", Overprovisioning: 1.4, MaxLoadRatio: 2}
			}
			if rapid.Bool().Draw(t, "slow start") {
				policy.SlowStart = &SlowStart{Window: time.Minute, Aggression: 1, MinPercent: 10}
			}
			c.Configure(policy)
			var es []registry.Endpoint
			for i := range 8 {
				if rapid.Bool().Draw(t, "there") {
					es = append(es, endpoint(fmt.Sprintf("i%d zone=%s version=%s *%d", i, rapid.SampledFrom([]string{"x", "y"}).Draw(t, "zone"),
						rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "version"), rapid.IntRange(1, 3).Draw(t, "weight"))))
				}
			}
			c.Update(es, false)
			possible := map[string]bool{}
			for _, in := range c.table.Load().instances {
				in.Block(Ejected, rapid.Bool().Draw(t, "ejected"))
				if in.Usable() && in.Endpoint().Meta["version"] == "v1" {
					possible[in.Endpoint().ID] = true
				}
			}
			for range 10 {
				in, ok := c.Pick(&Choice{Subset: "v1"})
				if ok != (len(possible) > 0) || ok && !possible[in.Endpoint().ID] {
					t.Fatalf("picked %v, %v of %v", in, ok, possible)
				}
				if ok {
					turn := in.Begin(time.Now())
					if rapid.Bool().Draw(t, "ends") {
						in.End()
						in.Observe(time.Now(), &Outcome{Turn: turn})
					}
				}
			}
		}
	})
}

// TestPickAllocatesNothing is not parallel: AllocsPerRun counts what every goroutine
// allocates.
func TestPickAllocatesNothing(t *testing.T) {
	for policy := range balance.ByDefault {
		p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, &Policy{
			Balance: balance.Options{Policy: policy, BoundedLoad: 1.2}, PanicPercent: 20,
			Locality: &Locality{Key: "zone", Overprovisioning: 1.4, MaxLoadRatio: 2},
			Subsets:  map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}},
		}, append(numbered(10, "zone=x version=v1"), endpoint("y zone=y version=v1"))...)
		ch := &Choice{Subset: "v1", Hash: 1, Hashed: true, Skip: func(in *Instance) bool { return in.Endpoint().ID == "i3" }}
		pick := func() {
			in, _ := p.cluster.Pick(ch)
			in.Begin(time.Time{})
		}
		pick()
		if got := testing.AllocsPerRun(100, pick); got > 0.5 {
			t.Errorf("%v allocates %v times a pick", policy, got)
		}
	}
}

// BenchmarkPick is what an RPC pays: nothing where no policy asks for more.
func BenchmarkPick(b *testing.B) {
	for name, policy := range map[string]*Policy{
		"none":   nil,
		"subset": {Subsets: map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}}},
		"all": {
			Balance: balance.Options{Policy: balance.EWMA}, PanicPercent: 20,
			Locality:  &Locality{Key: "zone", Overprovisioning: 1.4, MaxLoadRatio: 2},
			SlowStart: &SlowStart{Window: time.Minute, Aggression: 1, MinPercent: 10},
			Subsets:   map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}},
		},
	} {
		for _, n := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				p := newPool(b, Options{Meta: map[string]string{"zone": "x"}, Random: rand.Uint64}, policy,
					append(numbered(n, "zone=x version=v1"), endpoint("y zone=y version=v1"))...)
				ch := &Choice{Now: time.Now()}
				if name != "none" {
					ch.Subset = "v1"
				}
				b.ReportAllocs()
				for b.Loop() {
					p.cluster.Pick(ch)
				}
			})
		}
	}
}
