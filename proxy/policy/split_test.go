package policy

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// stickySplit is a split over v0, v1 and so on by the metadata key "user".
func stickySplit(tb testing.TB, seed string, weights ...int) *Route {
	tb.Helper()
	m := &configv1.Split{GroupKey: DefaultGroupKey, Sticky: &configv1.Sticky{
		Seed: seed, Key: &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "user"}},
	}}
	for i, weight := range weights {
		m.Destinations = append(m.Destinations, &configv1.WeightedDestination{Weight: uint32(weight), Subset: fmt.Sprintf("v%d", i)})
	}
	p := fresh()
	r := p.compileRoute(&configv1.RoutePolicy{Rules: []*configv1.RouteRule{{Action: &configv1.RouteRule_Split{Split: m}}}}, nil)
	if len(p.list) > 0 {
		tb.Fatalf("%v", p.list)
	}
	return r
}

// The shares of many keys are within five standard deviations of the weights, for
// sticky splits and for those by chance.
func TestSharesOfASplit(t *testing.T) {
	t.Parallel()
	weights := []int{9000, 700, 299, 1, 0}
	sticky := stickySplit(t, "experiment", weights...)
	chance := compiledRoute(t, `
- split:
    destinations: [{weight: 9000, subset: v0}, {weight: 700, subset: v1}, {weight: 299, subset: v2}, {weight: 1, subset: v3}, {weight: 0, subset: v4}]`)
	const n = 50_000
	for name, r := range map[string]*Route{"sticky": sticky, "by chance": chance} {
		counts := map[string]int{}
		rpc := request(sayHello, "user: ")
		for i := range n {
			rpc.Fields[len(rpc.Fields)-1].Value = strconv.Itoa(i)
			d := r.Decide(rpc, "greeter", nil)
			if d.Group.Name != d.Subset || d.Service != "greeter" {
				t.Fatalf("%+v in group %+v", d, d.Group)
			}
			counts[d.Subset]++
		}
		for i, weight := range weights {
			p := float64(weight) / shares
			got, bound := float64(counts[fmt.Sprintf("v%d", i)]), 5*math.Sqrt(n*p*(1-p))
			if math.Abs(got-n*p) > bound {
				t.Errorf("%s: v%d has %v of %d, not %v ± %.0f", name, i, got, n, n*p, bound)
			}
		}
	}
}

// The buckets of keys are what they were in every process that there ever was: another
// would move users.
func TestBucketsAreTheSameInEveryProcess(t *testing.T) {
	t.Parallel()
	file, err := os.Open("testdata/buckets.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	n := 0
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		seed, rest, _ := strings.Cut(lines.Text(), "|")
		key, number, _ := strings.Cut(rest, "|")
		want, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		var trace Trace
		stickySplit(t, seed, 5000, 5000).Decide(request(sayHello, "user: "+key), "greeter", &trace)
		if trace.Split.Bucket != want {
			t.Errorf("seed %q, key %q: bucket %d, not %d", seed, key, trace.Split.Bucket, want)
		}
		n++
	}
	if n < 20 {
		t.Errorf("only %d keys were checked", n)
	}
}

// Where one canary's weight is raised, all that moves goes from the first group to it,
// whichever of two it is; where it is lowered, back.
func TestRaisingAWeightMovesKeysOnlyThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.IntRange(0, shares).Draw(t, "first canary")
		b := rapid.IntRange(0, shares-a).Draw(t, "second canary")
		more := rapid.IntRange(0, shares-a-b).Draw(t, "more")
		raised := rapid.SampledFrom([]int32{1, 2}).Draw(t, "raised")
		before, after := []int{shares - a - b, a, b}, []int{shares - a - b - more, a, b}
		after[raised] += more
		checkMovement(t, owners(layOut(before)), owners(layOut(after)), raised, more)
	})
}

// With more canaries, those that stand in the way move as well, but never more keys
// than that; what is raised last stands in nobody's way.
func TestRaisingTheLastOfManyMovesKeysOnlyThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights, left := []int{0}, shares
		for range rapid.IntRange(3, 6).Draw(t, "canaries") {
			w := rapid.IntRange(0, left/2).Draw(t, "weight")
			weights, left = append(weights, w), left-w
		}
		more := rapid.IntRange(0, left).Draw(t, "more")
		last := len(weights) - 1
		weights[0] = left
		before := owners(layOut(weights))
		weights[0] -= more
		weights[last] += more
		checkMovement(t, before, owners(layOut(weights)), int32(last), more)
	})
}

func checkMovement(t *rapid.T, before, after [shares]int32, raised int32, more int) {
	moved := 0
	for i := range before {
		if before[i] == after[i] {
			continue
		}
		moved++
		if before[i] != 0 || after[i] != raised {
			t.Fatalf("bucket %d moves from group %d to %d, though %d was raised", i, before[i], after[i], raised)
		}
	}
	if moved != more {
		t.Fatalf("%d buckets move, not %d", moved, more)
	}
}

func TestGroupsHaveAsManyBucketsAsTheyWeigh(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights, left := []int{0}, shares
		for range rapid.IntRange(0, 20).Draw(t, "canaries") {
			w := rapid.IntRange(0, left).Draw(t, "weight")
			weights, left = append(weights, w), left-w
		}
		weights[0] = left
		segments := layOut(weights)
		s := &split{segments: segments, groups: make([]Group, len(weights))}
		counts := make([]int, len(weights))
		for i, owner := range owners(segments) {
			counts[owner]++
			if s.groupAt(uint32(i)) != &s.groups[owner] {
				t.Fatalf("bucket %d is not found in its segment", i)
			}
		}
		for i := range weights {
			if counts[i] != weights[i] {
				t.Fatalf("group %d has %d buckets, not %d", i, counts[i], weights[i])
			}
		}
	})
}

func owners(segments []segment) (list [shares]int32) {
	from := uint32(0)
	for _, s := range segments {
		for i := from; i < s.end; i++ {
			list[i] = s.group
		}
		from = s.end
	}
	return list
}

// Who has no key goes where the split says, and is told from others: an empty key is
// none.
func TestKeysThatAreMissing(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- name: named
  match: {metadata: [{key: named, present: true}]}
  split: {sticky: {key: {cookie: user}, missing: v1}, destinations: [{weight: 5000, subset: v1}, {weight: 5000, subset: v2}]}
- name: random
  split: {sticky: {key: {caller: true}}, destinations: [{weight: 5000, subset: v1}, {weight: 5000, subset: v2}]}`)
	counts := map[string]int{}
	rpc := request(sayHello)
	for range 1000 {
		for _, metadata := range [][]string{{"named: 1"}, {"named: 1", "cookie: user="}, {"named: 1", "cookie: other=1"}} {
			if d := r.Decide(request(sayHello, metadata...), "greeter", nil); d.Subset != "v1" {
				t.Fatalf("%q: %+v", metadata, d)
			}
		}
		counts[r.Decide(rpc, "greeter", nil).Subset]++
	}
	if counts["v1"] < 400 || counts["v2"] < 400 {
		t.Errorf("by chance: %v", counts)
	}
	for _, who := range []RPC{{Caller: "web"}, {Peer: "192.0.2.7"}} {
		subsets := map[string]int{}
		for range 100 {
			rpc := request(sayHello)
			rpc.Caller, rpc.Peer = who.Caller, who.Peer
			subsets[r.Decide(rpc, "greeter", nil).Subset]++
		}
		if len(subsets) != 1 {
			t.Errorf("%+v: %v", who, subsets)
		}
	}
}

func TestForcedGroups(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- name: allowed
  match: {metadata: [{key: allowed, present: true}]}
  split: {allow_force: true, destinations: [{weight: 10000, subset: v1}, {weight: 0, subset: v2, group: blue}]}
- name: not
  split: {destinations: [{weight: 10000, subset: v1}, {weight: 0, subset: v2, group: blue}]}`)
	for _, c := range []struct {
		metadata    []string
		subset, why string
	}{
		{[]string{"allowed: 1", "pillion-force: blue"}, "v2", "the caller asked for it (pillion-force: blue)"},
		{[]string{"allowed: 1", "pillion-force: v2"}, "v1", `by chance; pillion-force is ignored, because "v2" is none of the groups`},
		{[]string{"allowed: 1", "pillion-force: blue", "pillion-force: blue"}, "v1", "by chance; pillion-force is ignored, because it is there 2 times"},
		{[]string{"allowed: 1"}, "v1", "by chance"},
		{[]string{"pillion-force: blue"}, "v1", "by chance; pillion-force is ignored, because the split does not allow it"},
	} {
		var trace Trace
		d := r.Decide(request(sayHello, c.metadata...), "greeter", &trace)
		if d.Subset != c.subset || trace.Split.Why != c.why {
			t.Errorf("%q goes to %s: %s; want %s: %s", c.metadata, d.Subset, trace.Split.Why, c.subset, c.why)
		}
	}
}

// Keys that the policy names have the group that it says, whatever their hash, and
// whatever the caller asks for.
func TestKeysThatAreGivenAGroup(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- split:
    sticky: {key: {metadata: user}, forced: {ann: blue, bob: v1}}
    allow_force: true
    destinations: [{weight: 10000, subset: v1}, {weight: 0, subset: v2, group: blue}]`)
	for _, c := range []struct {
		metadata    []string
		subset, why string
	}{
		{[]string{"user: ann"}, "v2", `the policy gives "ann" its group by name (sticky.forced)`},
		{[]string{"user: bob", "pillion-force: blue"}, "v1", `the policy gives "bob" its group by name (sticky.forced)`},
		{[]string{"user: cid", "pillion-force: blue"}, "v2", "the caller asked for it (pillion-force: blue)"},
		{[]string{"user: cid"}, "v1", `by metadata "user"`},
		{nil, "v1", `by chance`},
	} {
		var trace Trace
		d := r.Decide(request(sayHello, c.metadata...), "greeter", &trace)
		if d.Subset != c.subset || !strings.Contains(trace.Split.Why, c.why) {
			t.Errorf("%q goes to %s: %s; want %s: %s", c.metadata, d.Subset, trace.Split.Why, c.subset, c.why)
		}
	}
}

// The app is told its group in the place of what callers write there.
func TestAppsAreToldTheirGroup(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- name: quiet
  match: {metadata: [{key: quiet, present: true}]}
  split: {group_key: "-", destinations: [{weight: 10000, subset: v1}]}
- name: own
  match: {metadata: [{key: own, present: true}]}
  split: {group_key: x-group, destinations: [{weight: 10000, subset: v1, request: {set: {x-flag: "on"}}}]}
- name: experiment
  match: {metadata: [{key: tested, present: true}]}
  split: {group_key: pillion-experiment-prices, destinations: [{weight: 10000, subset: v1}]}
- split: {destinations: [{weight: 10000, subset: v1}]}`)
	for _, c := range []struct{ in, out []string }{
		{[]string{"pillion-group: v2", "a: b", "pillion-group: v3"}, []string{"pillion-group: v1", "a: b"}},
		{[]string{"a: b"}, []string{"a: b", "pillion-group: v1"}},
		{[]string{"quiet: 1", "pillion-group: v2"}, []string{"quiet: 1", "pillion-group: v2"}},
		{[]string{"own: 1", "x-group: v2"}, []string{"own: 1", "x-group: v1", "x-flag: on"}},
		{[]string{"tested: 1", "pillion-experiment-prices: v2"}, []string{"tested: 1", "pillion-experiment-prices: v1"}},
	} {
		rpc := request(sayHello, c.in...)
		d := r.Decide(rpc, "greeter", nil)
		got, want := d.Group.Request.Apply(fields(c.in...)), fields(c.out...)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q becomes %v, not %v", c.in, got, want)
		}
	}
}

func TestSplitsThatAreWrong(t *testing.T) {
	t.Parallel()
	splits := map[string]string{
		`{destinations: [{weight: 9999, subset: v1}]}`:                                                      "the weights' sum is 9999, not 10000",
		`{destinations: [{weight: 5000, subset: v1}, {weight: 5000, subset: v1, service: x}]}`:              `is the second group named "v1"`,
		`{destinations: [{weight: 10000}]}`:                                                                 "has no group, subset or service",
		`{group_key: grpc-group, destinations: [{weight: 10000, subset: v1}]}`:                              "gRPC's own",
		`{group_key: group-bin, destinations: [{weight: 10000, subset: v1}]}`:                               "is for bytes",
		`{destinations: [{weight: 10000, subset: v1, request: {set: {pillion-group: v2}}}]}`:                "the app is told its group",
		`{sticky: {key: {metadata: user}, missing: v3}, destinations: [{weight: 10000, subset: v1}]}`:       `"v3" is none of the split's groups`,
		`{sticky: {key: {metadata: user}, forced: {ann: v3}}, destinations: [{weight: 10000, subset: v1}]}`: `"v3" is none of the split's groups`,
		`{sticky: {key: {metadata: User}}, destinations: [{weight: 10000, subset: v1}]}`:                    `write "user"`,
	}
	yaml, wants := "", map[string]string{}
	for split, want := range splits {
		name := fmt.Sprintf("p%d", len(wants))
		yaml += fmt.Sprintf("- {name: %s, service: %s, route: {rules: [{split: %s}]}}\n", name, name, split)
		wants[name] = want
	}
	refused := refusalsOf(written(t, yaml))
	for _, r := range refused {
		if !strings.Contains(r.Message, wants[r.Policy]) || !strings.HasPrefix(r.Field, "route.rules[0].split") {
			t.Errorf("%v, which does not say %q", r, wants[r.Policy])
		}
		delete(wants, r.Policy)
	}
	if len(wants) > 0 {
		t.Errorf("not refused: %v", wants)
	}
}
