package policy

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestChances(t *testing.T) {
	t.Parallel()
	route := compiledRoute(t, `
- {name: gone, match: {metadata: [{key: a, exact: "1"}]}, status: {code: NOT_FOUND}}
- {name: some, match: {fraction: 1000, metadata: [{key: b, present: true}]}, to: {service: other}}
- name: split
  match: {metadata: [{key: c, present: true}]}
  split:
    sticky: {key: {metadata: user}}
    destinations: [{weight: 7500, group: v1, subset: v1}, {weight: 2500, group: v2, service: two}, {weight: 0, group: v3, service: three}]
- {name: never, match: {fraction: 0}, to: {service: other}}
`)
	for _, c := range []struct {
		rpc  *RPC
		want []string
	}{
		{request(sayHello), []string{" greeter/ 100 %"}},
		{request(sayHello, "a: 1", "b: 1"), []string{"gone greeter/ 100 %"}},
		{request(sayHello, "b: 1"), []string{"some other/ 10 %", " greeter/ 90 %"}},
		{request(sayHello, "c: 1"), []string{"split greeter/v1 75 %", "split two/ 25 %"}},
		{request(sayHello, "b: 1", "c: 1"), []string{"some other/ 10 %", "split greeter/v1 67.5 %", "split two/ 22.5 %"}},
		{request(sayHello, "c: 1", "user: 42"), []string{"split two/ 100 %"}},
	} {
		var trace Trace
		var got []string
		for _, chance := range route.Chances(c.rpc, "greeter", &trace) {
			name := ""
			if chance.Decision.Rule != nil {
				name = chance.Decision.Rule.Name
			}
			got = append(got, name+" "+chance.Decision.Service+"/"+chance.Decision.Subset+" "+Percent(chance.Share))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.rpc.Fields[3:], got, c.want)
		}
		if len(trace.Rules) != 4 {
			t.Errorf("%v: %+v", c.rpc.Fields[3:], trace.Rules)
		}
		_, splits := one(c.rpc.Fields, "c")
		if s := trace.Split; (s != nil) != (splits > 0) || s != nil && (s.Group == "") != (s.Bucket < 0) {
			t.Errorf("%v: %+v", c.rpc.Fields[3:], s)
		}
	}
	if chances := (*Route)(nil).Chances(request(sayHello), "greeter", nil); len(chances) != 1 || chances[0].Decision.Service != "greeter" {
		t.Errorf("%+v", chances)
	}
}

// What Decide makes of an RPC is among its chances, and comes as often as they say.
func TestChancesAreWhatComes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		set, refusals := Compile([]*configv1.Policy{{
			Name: "p", Service: "greeter", Kind: &configv1.Policy_Route{Route: drawRoute(t)},
		}}, nil, Env{})
		if len(refusals) > 0 {
			t.Skip(refusals)
		}
		rpc := drawRPC(t)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7))
		rpc.Random = random.Uint64
		route := set.Service("greeter").Outbound(rpc.Path).Route
		chances := route.Chances(rpc, "greeter", nil)
		sum := 0.0
		came := make(map[Decision]float64)
		for _, c := range chances {
			sum += c.Share
			came[c.Decision] = 0
		}
		if len(came) != len(chances) || math.Abs(sum-1) > 1e-9 {
			t.Fatalf("%d of %d differ, their sum is %v: %+v", len(came), len(chances), sum, chances)
		}
		rounds := 2000
		if len(chances) == 1 {
			rounds = 10
		}
		for range rounds {
			d := route.Decide(rpc, "greeter", nil)
			if _, expected := came[d]; !expected {
				t.Fatalf("%+v came, but is not among %+v", d, chances)
			}
			came[d] += 1 / float64(rounds)
		}
		for _, c := range chances {
			// Six standard deviations, and one RPC.
			if off := math.Abs(came[c.Decision] - c.Share); off > 6*math.Sqrt(c.Share*(1-c.Share)/float64(rounds))+1/float64(rounds) {
				t.Fatalf("%+v came in %v, not %v", c.Decision, came[c.Decision], c.Share)
			}
		}
	})
}
