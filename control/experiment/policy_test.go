package experiment

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// userKey is the unit of all experiments in tests.
var userKey = &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "user"}}

// document returns an experiment of two halves, checked and with its defaults filled in.
func document(tb testing.TB, name string, change ...func(*configv1.Experiment)) *configv1.Experiment {
	tb.Helper()
	e := &configv1.Experiment{Name: name, Service: "shop", Unit: userKey, Variants: []*configv1.Variant{
		{Name: "control", Weight: 5000}, {Name: "treatment", Weight: 5000},
	}}
	for _, c := range change {
		c(e)
	}
	e = configyaml.EffectiveExperiment(e)
	if err := configyaml.CheckExperiment(e); err != nil {
		tb.Fatal(err)
	}
	return e
}

// compile compiles what experiments come to, of which nothing may be refused.
func compile(tb testing.TB, env policy.Env, policies ...*configv1.Policy) *policy.Set {
	tb.Helper()
	subsets := &configv1.Policy{Name: "subsets", Service: "shop", Kind: &configv1.Policy_Subsets{Subsets: &configv1.SubsetsPolicy{
		Subsets: map[string]*configv1.Subset{"v1": {}, "v2": {}},
	}}}
	set, refused := policy.Compile(append([]*configv1.Policy{subsets}, policies...), nil, env)
	if len(refused) > 0 {
		tb.Fatalf("%v", refused)
	}
	return set
}

// divide says in which groups an RPC is.
func divide(set *policy.Set, path string, metadata ...string) []policy.Chosen {
	rpc := &policy.RPC{Path: path, Random: func() uint64 { return 7 }}
	for _, m := range metadata {
		name, value, _ := strings.Cut(m, ": ")
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: name, Value: value})
	}
	rpc.Mark()
	d := policy.Decision{Service: "shop"}
	return set.Service("shop").Splits(path).Decide(rpc, &d, nil, nil)
}

func users(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("user: u%d", i)
	}
	return list
}

func TestWhoTakesPart(t *testing.T) {
	t.Parallel()
	e := document(t, "Checkout", func(e *configv1.Experiment) {
		e.Methods = []string{"shop.Cart/*"}
		e.Eligible = &configv1.RouteMatch{Metadata: []*configv1.MetadataMatch{{Key: "country", Condition: &configv1.MetadataMatch_Exact{Exact: "nz"}}}}
		e.Holdout = 1000
		e.Layer = &configv1.Layer{Name: "prices", Start: 0, End: proto.Uint32(5000)}
		e.Forced = map[string]string{"tester": "treatment"}
		e.Variants[1].Subset = "v2"
		e.Variants[0].Subset = "v1"
	})
	set := compile(t, policy.Env{}, Policy(e))
	const n = 4000
	taking := 0
	for _, user := range users(n) {
		groups := divide(set, "/shop.Cart/Add", user, "country: nz")
		taking += len(groups)
		for _, without := range [][]policy.Chosen{
			divide(set, "/shop.Cart/Add", user), divide(set, "/shop.Other/Add", user, "country: nz"),
		} {
			if len(without) != 0 {
				t.Fatalf("%s is in %v though the experiment is not for it", user, without)
			}
		}
		if again := divide(set, "/shop.Cart/Add", user, "country: nz"); !slices.Equal(groups, again) {
			t.Fatalf("%s is in %v, and then in %v", user, groups, again)
		}
	}
	// Nine tenths and a half of all users; five standard deviations are 158.
	if taking < 1800-158 || taking > 1800+158 {
		t.Errorf("%d of %d take part", taking, n)
	}
	if groups := divide(set, "/shop.Cart/Add", "country: nz"); len(groups) != 0 {
		t.Errorf("an RPC without a unit is in %v", groups)
	}
	groups := divide(set, "/shop.Cart/Add", "user: tester", "country: nz")
	if len(groups) != 1 || groups[0].Name != "treatment" || !groups[0].Forced {
		t.Errorf("who is forced is in %+v", groups)
	}
	if key := groups[0].KeyName; key != "pillion-experiment-checkout" {
		t.Errorf("the app is told in %q", key)
	}
}

// Who is forced has the variant wherever the hash lies, also outside the layer.
func TestForcedOutsideOfTheLayer(t *testing.T) {
	t.Parallel()
	e := document(t, "checkout", func(e *configv1.Experiment) {
		e.Layer = &configv1.Layer{Name: "prices", Start: 0, End: proto.Uint32(1)}
		e.AllowForce = true
		e.Forced = map[string]string{}
		for _, user := range users(100) {
			e.Forced[strings.TrimPrefix(user, "user: ")] = "treatment"
		}
	})
	set := compile(t, policy.Env{}, Policy(e))
	for _, user := range users(100) {
		if groups := divide(set, "/a.B/C", user); len(groups) != 1 || groups[0].Name != "treatment" || !groups[0].Forced {
			t.Fatalf("%s is in %+v", user, groups)
		}
	}
	if groups := divide(set, "/a.B/C", "pillion-force: control"); len(groups) != 1 || groups[0].Name != "control" || !groups[0].Forced {
		t.Errorf("who asks for control is in %+v", groups)
	}
}

// The same units are held out of all experiments, and no unit is in two of one layer.
func TestPartsOfUnits(t *testing.T) {
	t.Parallel()
	layered := func(start, end uint32) func(*configv1.Experiment) {
		return func(e *configv1.Experiment) {
			e.Holdout = 2000
			e.Layer = &configv1.Layer{Name: "prices", Start: start, End: new(end)}
		}
	}
	first, second := document(t, "first", layered(0, 4000)), document(t, "second", layered(4000, 10_000))
	free := document(t, "free", func(e *configv1.Experiment) { e.Holdout = 2000 })
	if why := Problem(second, []*configv1.Experiment{first, free}); why != "" {
		t.Errorf("second beside first: %s", why)
	}
	set := compile(t, policy.Env{}, Policy(first), Policy(second), Policy(free))
	in := map[string]int{}
	for _, user := range users(5000) {
		var names []string
		for _, g := range divide(set, "/a.B/C", user) {
			names = append(names, g.KeyName)
		}
		slices.Sort(names)
		in[strings.ReplaceAll(strings.Join(names, " "), "pillion-experiment-", "")]++
	}
	for _, c := range []struct {
		names string
		share float64
	}{{"", 0.2}, {"first free", 0.32}, {"free second", 0.48}} {
		if got := float64(in[c.names]) / 5000; got < c.share-0.04 || got > c.share+0.04 {
			t.Errorf("%.3f of all are in %q, not %.2f", got, c.names, c.share)
		}
		delete(in, c.names)
	}
	if len(in) > 0 {
		t.Errorf("some are in %v", in)
	}
}

func TestLayersThatOverlap(t *testing.T) {
	t.Parallel()
	with := func(name, layer string, start, end uint32) *configv1.Experiment {
		return document(t, name, func(e *configv1.Experiment) {
			e.Layer = &configv1.Layer{Name: layer, Start: start, End: new(end)}
		})
	}
	running := []*configv1.Experiment{with("low", "prices", 0, 3000), with("high", "prices", 7000, 10_000), document(t, "free")}
	for _, c := range []struct {
		e    *configv1.Experiment
		with string
	}{
		{with("middle", "prices", 3000, 7000), ""},
		{with("other", "search", 0, 10_000), ""},
		{with("low", "prices", 0, 3000), ""}, // it is itself
		{document(t, "none"), ""},
		{with("a", "prices", 2999, 7000), `"low"`},
		{with("b", "prices", 3000, 7001), `"high"`},
		{with("c", "prices", 0, 10_000), `"low"`},
		{with("d", "prices", 1000, 2000), `"low"`},
	} {
		why := Problem(c.e, running)
		if (why == "") != (c.with == "") || !strings.Contains(why, c.with) {
			t.Errorf("%s: %q", c.e.GetName(), why)
		}
	}
}

// Whoever compiles an experiment's policy asks for its observers by the names that the
// agent knows.
func TestObserversOfThePolicy(t *testing.T) {
	t.Parallel()
	e := document(t, "checkout")
	var asked []telemetry.GroupKey
	compile(t, policy.Env{Observer: func(key telemetry.GroupKey) telemetry.Observer {
		asked = append(asked, key)
		return nil
	}}, Policy(e))
	want := []telemetry.GroupKey{{Policy: "experiment.checkout", Group: "control"}, {Policy: "experiment.checkout", Group: "treatment"}}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %v", asked)
	}
}
