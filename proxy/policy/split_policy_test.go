package policy

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// dividedBy says where split policies send an RPC for which the route decided that, and
// in which groups it is: "service/subset: group, group".
func dividedBy(set *Set, rpc *RPC, d Decision) string {
	return dividedTo(set.Service(d.Service).Splits(rpc.Path).Chances(rpc, d))
}

func dividedTo(chances []SplitChance) string {
	var all []string
	for _, c := range chances {
		text := c.Decision.Service + "/" + c.Decision.Subset + ":"
		for _, g := range c.Groups {
			text += " " + g.Name
		}
		if len(chances) > 1 {
			text += " " + Percent(c.Share)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// always is a split whose RPCs are all in one group.
func always(group string) string { return "split: {destinations: [{weight: 10000, " + group + "}]}" }

func TestSplitPoliciesHoldTogether(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- {name: late, service: greeter, split: {order: 2000, `+always("subset: late")+`}}
- {name: named, service: greeter, split: {order: 1500, `+always("group: named")+`}}
- {name: early-b, service: greeter, split: {order: 1000, match: {metadata: [{key: b, present: true}]}, `+always("subset: b")+`}}
- {name: early-a, service: greeter, split: {order: 1000, match: {metadata: [{key: a, present: true}]}, `+always("service: other")+`}}
- {name: hello, service: greeter, methods: [helloworld.Greeter/SayHello], split: {`+always("group: hello")+`}}
- {name: world, service: greeter, methods: ["helloworld.*", "x.Y"], split: {`+always("group: world")+`}}
- {name: all, service: "*", split: {order: 3000, `+always("group: all")+`}}
- {name: of-other, service: other, split: {`+always("subset: o")+`}}
- {name: timeout, service: greeter, methods: [x.Y/Z], timeout: {default: 1s}}
`)
	at := Decision{Service: "greeter"}
	placed := Decision{Service: "greeter", Subset: "v1"}
	grouped := Decision{Service: "greeter", Group: &Group{Name: "g", service: "greeter"}}
	told := Decision{Service: "greeter", Group: &Group{Name: "g"}}
	for _, c := range []struct {
		rpc  *RPC
		d    Decision
		want string
	}{
		{request(sayHello), at, "greeter/late: hello world named late all"},
		{request("/helloworld.Greeter/SayBye"), at, "greeter/late: world named late all"},
		{request("/x.Y/Z"), at, "greeter/late: world named late all"},
		{request("/x.Z/Z"), at, "greeter/late: named late all"},
		// Of equal order the name decides; what comes later names groups alone.
		{request(sayHello, "a: 1", "b: 1"), at, "other/: hello world other named all"},
		{request(sayHello, "b: 1"), at, "greeter/b: hello world b named all"},
		// Where a route has chosen a part of the service, only names are given; to have
		// chosen the service is to have chosen no part of it.
		{request(sayHello, "a: 1", "b: 1"), placed, "greeter/v1: hello world named all"},
		{request(sayHello), grouped, "greeter/late: hello world named late all"},
		{request(sayHello), told, "greeter/late: hello world named late all"},
		// Policies of the service where the route leads, and not again where they lead.
		{request(sayHello), Decision{Service: "other"}, "other/o: o all"},
		{request(sayHello), Decision{Service: "third"}, "third/: all"},
	} {
		if got := dividedBy(set, c.rpc, c.d); got != c.want {
			t.Errorf("%s %v, %+v: %s, want %s", c.rpc.Path, c.rpc.Fields[3:], c.d, got, c.want)
		}
	}
	if s := compiled(t, "- {name: t, service: greeter, timeout: {default: 1s}}").Service("greeter").Splits(sayHello); s != nil {
		t.Errorf("without split policies there is %v", s)
	}
}

// A policy of which one group is somewhere is passed over as a whole when that is decided:
// whoever is in the other group could not be compared with whoever is in this one.
func TestAPolicyIsPassedOverAsAWhole(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- name: half
  service: greeter
  split: {split: {sticky: {key: {metadata: user}}, destinations: [{weight: 5000, group: control}, {weight: 5000, group: v2, subset: v2}]}}
- name: other
  service: greeter
  split: {split: {sticky: {key: {metadata: user}}, destinations: [{weight: 5000, group: control2}, {weight: 5000, group: v3, subset: v3}]}}
`)
	counts := map[string]int{}
	for i := range 1000 {
		rpc := request(sayHello, "user: "+strconv.Itoa(i))
		counts[dividedBy(set, rpc, Decision{Service: "greeter"})]++
		if got := dividedBy(set, rpc, Decision{Service: "greeter", Subset: "v1"}); got != "greeter/v1:" {
			t.Fatalf("user %d, whom a route has sent to v1: %s", i, got)
		}
	}
	want := []string{"greeter/: control control2", "greeter/v2: v2", "greeter/v3: control v3"}
	if got := slices.Sorted(maps.Keys(counts)); !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", counts, want)
	}
	if a, b := counts[want[0]], counts[want[2]]; math.Abs(float64(a-b)) > 5*math.Sqrt(500) {
		t.Errorf("of those in control there are %d and %d in the groups of the other policy", a, b)
	}
}

// Ranges with one seed that do not overlap hold different keys, and together all; who has
// no key is in none.
func TestLayersAreDisjoint(t *testing.T) {
	t.Parallel()
	yaml, bounds := "", []int{0, 2000, 2050, 7000, 10000}
	for i := range len(bounds) - 1 {
		yaml += fmt.Sprintf("- {name: l%d, service: greeter, split: {ranges: [{key: {metadata: user}, seed: layer, start: %d, end: %d}], %s}}\n",
			i, bounds[i], bounds[i+1], always("group: l"+strconv.Itoa(i)))
	}
	set := compiled(t, yaml)
	counts := map[string]int{}
	const n = 8_000
	for i := range n {
		counts[dividedBy(set, request(sayHello, "user: "+strconv.Itoa(i)), Decision{Service: "greeter"})]++
	}
	for i := range len(bounds) - 1 {
		p := float64(bounds[i+1]-bounds[i]) / shares
		got := float64(counts["greeter/: l"+strconv.Itoa(i)])
		if math.Abs(got-n*p) > 5*math.Sqrt(n*p*(1-p)) || got == 0 {
			t.Errorf("layer %d has %v of %d users, want %v", i, got, n, n*p)
		}
	}
	if len(counts) != 4 {
		t.Errorf("users are in other than one layer each: %v", counts)
	}
	for _, rpc := range []*RPC{request(sayHello), request(sayHello, "user: ")} {
		if got := dividedBy(set, rpc, Decision{Service: "greeter"}); got != "greeter/:" {
			t.Errorf("who has no key is in %s", got)
		}
	}
}

// experiment is a split policy by user over three groups.
func experiment(name, seed string) string {
	return fmt.Sprintf("- {name: %s, service: greeter, split: {split: {sticky: {key: {metadata: user}, seed: %s}, destinations: [{weight: 4000, group: a}, {weight: 3500, group: b}, {weight: 2500, group: c}]}}}\n", name, seed)
}

// Two experiments with different salts divide users independently of each other, and of
// the layer that both are in: chi-squared, at fixed seeds.
func TestExperimentsAreIndependent(t *testing.T) {
	t.Parallel()
	independent := func(t *testing.T, table map[[2]string]float64, n float64) (statistic float64) {
		rows, columns := map[string]float64{}, map[string]float64{}
		for at, count := range table {
			rows[at[0]] += count
			columns[at[1]] += count
		}
		if len(rows) != 3 || len(columns) != 3 {
			t.Fatalf("not all groups have users: %v", table)
		}
		for row, r := range rows {
			for column, c := range columns {
				expected := r * c / n
				statistic += math.Pow(table[[2]string{row, column}]-expected, 2) / expected
			}
		}
		return statistic
	}
	groups := func(set *Set, user string) []Chosen {
		d := Decision{Service: "greeter"}
		return set.Service("greeter").Splits(sayHello).Decide(request(sayHello, "user: "+user), &d, nil, nil)
	}
	for _, seeds := range [][2]string{{"checkout", "search"}, {"exp-1", "exp-2"}, {"a", "b"}} {
		set := compiled(t, experiment("x", seeds[0])+experiment("y", seeds[1]))
		table, n := map[[2]string]float64{}, 9_000
		for i := range n {
			g := groups(set, "user-"+strconv.Itoa(i))
			table[[2]string{g[0].Name, g[1].Name}]++
			if g[0].Unit == g[1].Unit {
				t.Fatalf("user %d is one unit in both", i)
			}
		}
		// Four degrees of freedom: above 23.5 is one in 10,000.
		if x := independent(t, table, float64(n)); x > 23.5 {
			t.Errorf("seeds %q: chi-squared is %.1f: %v", seeds, x, table)
		}
	}
	// The same salt is the same groups, or the test could not fail.
	set := compiled(t, experiment("x", "one")+experiment("y", "one"))
	table := map[[2]string]float64{}
	for i := range 2000 {
		g := groups(set, "user-"+strconv.Itoa(i))
		table[[2]string{g[0].Name, g[1].Name}]++
	}
	if x := independent(t, table, 2000); x < 1000 {
		t.Errorf("with one salt chi-squared is only %.1f", x)
	}
}

// Units are the hashes that their groups follow from.
func TestUnitsAreWhatGroupsFollowFrom(t *testing.T) {
	t.Parallel()
	splits := compiled(t, experiment("x", "seed")).Service("greeter").Splits(sayHello)
	assignment := NewAssignment([]int{4000, 3500, 2500})
	seen := map[uint64]bool{}
	for i := range 10_000 {
		d := Decision{Service: "greeter"}
		g := splits.Decide(request(sayHello, "user: "+strconv.Itoa(i)), &d, nil, nil)[0]
		if g.Unit == 0 || seen[g.Unit] || g.Forced || g.Name != []string{"a", "b", "c"}[assignment.Group(g.Unit)] {
			t.Fatalf("user %d: %+v", i, g)
		}
		seen[g.Unit] = true
	}
	d := Decision{Service: "greeter"}
	if g := splits.Decide(request(sayHello), &d, nil, nil)[0]; g.Unit != 0 {
		t.Errorf("who has no key is unit %d", g.Unit)
	}
}

// Where a canary's weight is raised, users go from stable to the canary and nobody comes
// back, and where it is lowered the same ones do; units stay what they are.
func TestRaisingACanaryMovesUsersOnlyToIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.StringMatching("[a-z]{1,8}").Draw(t, "seed")
		weights := rapid.SliceOfN(rapid.IntRange(0, shares), 2, 4).Draw(t, "steps")
		slices.Sort(weights)
		var before []Chosen
		var previous *Set
		for _, weight := range weights {
			set, refused := Compile([]*configv1.Policy{{
				Name: "canary.c", Service: "greeter", Kind: &configv1.Policy_Split{Split: &configv1.SplitPolicy{Split: &configv1.Split{
					Sticky: &configv1.Sticky{Seed: seed, Key: &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "user"}}},
					Destinations: []*configv1.WeightedDestination{
						{Weight: uint32(shares - weight), Group: "stable", Subset: "v1"}, {Weight: uint32(weight), Group: "canary", Subset: "v2"},
					},
				}}},
			}}, previous, Env{})
			if len(refused) > 0 {
				t.Fatal(refused)
			}
			previous = set
			var now []Chosen
			for i := range 200 {
				d := Decision{Service: "greeter"}
				now = set.Service("greeter").Splits(sayHello).Decide(request(sayHello, "user: "+strconv.Itoa(i)), &d, now, nil)
				if d.Subset != now[i].subset {
					t.Fatalf("user %d in group %s goes to %q", i, now[i].Name, d.Subset)
				}
				if before != nil && (before[i].Name == "canary" && now[i].Name != "canary" || before[i].Unit != now[i].Unit) {
					t.Fatalf("user %d goes from %+v to %+v at weight %d", i, before[i], now[i], weight)
				}
			}
			before = now
		}
	})
}

func TestForcedGroupsOfSplitPolicies(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- name: canary
  service: greeter
  split: {split: {allow_force: true, sticky: {key: {metadata: user}}, destinations: [{weight: 10000, subset: v1}, {weight: 0, subset: v2}]}}
- {name: quiet, service: greeter, split: {split: {destinations: [{weight: 10000, group: v3}, {weight: 0, group: v2}]}}}
`)
	for _, c := range []struct {
		metadata []string
		forced   bool
		unit     bool
		want     string
	}{
		{nil, false, false, "v1 v3"},
		{[]string{"user: 1"}, false, true, "v1 v3"},
		{[]string{"user: 1", "pillion-force: v2"}, true, true, "v2 v3"},
		{[]string{"pillion-force: v2"}, true, false, "v2 v3"},
		{[]string{"pillion-force: v3"}, false, false, "v1 v3"},
	} {
		d := Decision{Service: "greeter"}
		g := set.Service("greeter").Splits(sayHello).Decide(request(sayHello, c.metadata...), &d, nil, nil)
		if got := g[0].Name + " " + g[1].Name; got != c.want || g[0].Forced != c.forced || g[1].Forced || (g[0].Unit != 0) != c.unit {
			t.Errorf("%q: %s, %+v", c.metadata, got, g)
		}
	}
}

// The app is told its groups under each split's key, and under one key one after the
// other; what callers write there does not come through.
func TestAppsAreToldAllTheirGroups(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- {name: a, service: greeter, split: {order: 1, split: {destinations: [{weight: 10000, group: a1, request: {set: {x-a: "1"}}}]}}}
- {name: b, service: greeter, split: {order: 2, split: {group_key: x-b, destinations: [{weight: 10000, group: b1}]}}}
- {name: c, service: greeter, split: {order: 3, split: {group_key: "-", destinations: [{weight: 10000, group: c1}]}}}
- {name: d, service: greeter, split: {order: 4, split: {destinations: [{weight: 10000, subset: d1, request: {remove: [x-b], add: {x-a: "2"}}}]}}}
- {name: r, service: routed, route: {rules: [{request: {set: {x-r: "1"}}, split: {destinations: [{weight: 10000, group: r1, service: greeter}]}}]}}
- {name: plain, service: plain, route: {rules: [{request: {set: {x-r: "2"}}, to: {service: greeter}}]}}
`)
	for _, c := range []struct {
		service string
		in, out []string
	}{
		{"greeter", []string{"k: v"}, []string{"k: v", "pillion-group: a1", "x-a: 1", "pillion-group: d1", "x-a: 2"}},
		{"greeter", []string{"pillion-group: x", "k: v", "pillion-group: y", "x-b: z"}, []string{"pillion-group: a1", "k: v", "x-a: 1", "pillion-group: d1", "x-a: 2"}},
		{"routed", []string{"pillion-group: x", "k: v"}, []string{"pillion-group: r1", "k: v", "x-r: 1", "x-a: 1", "pillion-group: a1", "pillion-group: d1", "x-a: 2"}},
		{"plain", []string{"k: v"}, []string{"k: v", "x-r: 2", "pillion-group: a1", "x-a: 1", "pillion-group: d1", "x-a: 2"}},
	} {
		rpc := &RPC{Path: sayHello, Fields: fields(c.in...), Random: rand.Uint64}
		rpc.Mark()
		d := Decision{Service: c.service}
		if m := set.Service(c.service).Outbound(sayHello); m.Routes() {
			d = m.Decide(rpc, c.service)
		}
		chosen := set.Service(d.Service).Splits(sayHello).Decide(rpc, &d, nil, nil)
		if got, want := d.Change(rpc, chosen), fields(c.out...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s %q:\n  %v\nwant\n  %v", c.service, c.in, got, want)
		}
	}
}

// told is an observer that can be told from others.
type told struct{ key telemetry.GroupKey }

func (*told) Ended(*telemetry.Outcome) {}

// Who observes a group does so for as long as the policy says the same.
func TestObserversStayWithTheirPolicies(t *testing.T) {
	t.Parallel()
	var asked []telemetry.GroupKey
	env := Env{Observer: func(key telemetry.GroupKey) telemetry.Observer {
		asked = append(asked, key)
		if key.Group == "nobody" {
			return nil
		}
		return &told{key}
	}}
	yaml := func(weight int, more string) string {
		return fmt.Sprintf(`
- {name: canary.c, service: greeter, methods: [helloworld.Greeter], split: {split: {destinations: [{weight: %d, subset: v1}, {weight: %d, subset: v2}, {weight: 0, group: nobody}]}}}
- {name: r, service: greeter, route: {rules: [{split: {destinations: [{weight: 10000, group: g}]}}]}}
`, shares-weight, weight) + more
	}
	observers := func(set *Set) (all []telemetry.Observer) {
		for i := range set.byName["canary.c"].split.split.groups {
			all = append(all, set.byName["canary.c"].split.split.groups[i].Observer)
		}
		return all
	}
	first, _ := Compile(written(t, yaml(100, "")), nil, env)
	if want := []telemetry.GroupKey{{Policy: "canary.c", Group: "v1"}, {Policy: "canary.c", Group: "v2"}, {Policy: "canary.c", Group: "nobody"}}; !slices.Equal(asked, want) {
		t.Fatalf("asked for %v, want %v", asked, want)
	}
	if before := observers(first); before[0] == nil || before[2] != nil {
		t.Fatalf("%v", before)
	}
	asked = nil
	second, _ := Compile(written(t, yaml(100, "- {name: t, service: greeter, timeout: {default: 1s}}")), first, env)
	// Other methods are no other body.
	third, _ := Compile(written(t, strings.Replace(yaml(100, ""), "helloworld.Greeter", "helloworld.Other", 1)), second, env)
	for _, set := range []*Set{second, third} {
		if !slices.Equal(observers(set), observers(first)) || asked != nil {
			t.Errorf("%v, want %v; asked for %v", observers(set), observers(first), asked)
		}
	}
	if third.Service("greeter").Splits("/helloworld.Other/X") == nil || third.Service("greeter").Splits(sayHello) != nil {
		t.Error("the other methods do not hold")
	}
	if Compile(written(t, yaml(200, "")), third, env); len(asked) != 3 {
		t.Errorf("of another policy observers were asked for %v", asked)
	}
}

func TestSplitPoliciesThatAreWrong(t *testing.T) {
	t.Parallel()
	good := always("subset: v1")
	wants := map[string][2]string{}
	yaml := "- {name: versions, service: p3, subsets: {subsets: {v2: {meta: {version: v2}}}}}\n"
	for i, c := range []struct{ policy, field, message string }{
		{`split: {split: {destinations: [{weight: 9999, group: a}]}}`, "split.split.destinations", "the weights' sum is 9999"},
		{`split: {ranges: [{key: {metadata: User}, seed: s, start: 0, end: 5}], ` + good + `}`, "split.ranges[0].key.metadata", `write "user"`},
		{`split: {ranges: [{key: {caller: true}, seed: s, start: 5, end: 5}], ` + good + `}`, "split.ranges[0]", "end has to be above start"},
		{`split: {` + good + `}`, "split.split.destinations[0].subset", `service "p3" has no subset "v1"`},
		{`inbound: true, split: {` + good + `}`, "inbound", "does not go with split"},
		{`split: {match: {metadata: [{key: ":path", present: true}]}, ` + good + `}`, "split.match.metadata[0].key", "use methods"},
		{`methods: ["*", "*"], split: {` + good + `}`, "", ""},
	} {
		if c.field == "" {
			continue
		}
		name := fmt.Sprintf("p%d", i)
		yaml += fmt.Sprintf("- {name: %s, service: %s, %s}\n", name, name, c.policy)
		wants[name] = [2]string{c.field, c.message}
	}
	for _, r := range refusalsOf(written(t, yaml)) {
		if want := wants[r.Policy]; r.Field != want[0] || !strings.Contains(r.Message, want[1]) {
			t.Errorf("%v, want %q", r, want)
		}
		delete(wants, r.Policy)
	}
	if len(wants) > 0 {
		t.Errorf("not refused: %v", wants)
	}
	many := ""
	for i := range maxSplits + 1 {
		many += fmt.Sprintf("- {name: s%02d, service: greeter, split: {order: %d, %s}}\n- {name: a%02d, service: \"*\", split: {%s}}\n", i, i, always("group: g"), i, always("group: g"))
	}
	set, refused := Compile(written(t, many), nil, Env{})
	if len(refused) != 2 || refused[0].Policy != "s32" || refused[1].Policy != "a32" || !strings.Contains(refused[0].Message, "32 split policies") {
		t.Errorf("%v", refused)
	}
	// And an RPC is in so many groups at most, and what is passed over says so.
	var trace Trace
	d := Decision{Service: "greeter"}
	if g := set.Service("greeter").Splits(sayHello).Decide(request(sayHello), &d, nil, &trace); len(g) != maxGroups {
		t.Errorf("the RPC is in %d groups", len(g))
	}
	if last := trace.Policies[len(trace.Policies)-1]; len(trace.Policies) != 2*maxSplits || last.Holds || last.Why != "the RPC is in as many groups as it may be" {
		t.Errorf("%+v", last)
	}
}

// A policy that is refused because its subset is gone goes on with the subset, as a route
// does.
func TestKeptSplitPoliciesKeepTheirSubsets(t *testing.T) {
	t.Parallel()
	versions := func(names ...string) string {
		text := "- {name: versions, service: greeter, subsets: {subsets: {"
		for _, name := range names {
			text += name + ": {meta: {version: " + name + "}}, "
		}
		return text + "}}}\n"
	}
	canary := "- {name: c, service: greeter, split: {" + always("subset: v1") + "}}\n"
	first := compiled(t, versions("v1", "v2")+canary)
	second, refused := Compile(written(t, versions("v2")+canary), first, Env{})
	if len(refused) != 1 || !refused[0].Kept || second.Service("greeter").Cluster().Subsets["v1"].Meta["version"] != "v1" {
		t.Errorf("%v, %+v", refused, second.Service("greeter").Cluster())
	}
	if got := dividedBy(second, request(sayHello), Decision{Service: "greeter"}); got != "greeter/v1: v1" {
		t.Errorf("%s", got)
	}
}

func TestTracesOfSplitPolicies(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- {name: a, service: greeter, split: {match: {callers: [web]}, `+always("group: a")+`}}
- {name: b, service: greeter, split: {ranges: [{key: {metadata: none}, seed: s, start: 0, end: 10000}], `+always("group: b")+`}}
- {name: c, service: greeter, split: {ranges: [{key: {metadata: user}, seed: s, start: 0, end: 1}], `+always("group: c")+`}}
- {name: d, service: greeter, split: {match: {fraction: 0}, `+always("group: d")+`}}
- {name: e, service: greeter, split: {split: {sticky: {key: {metadata: user}}, destinations: [{weight: 10000, subset: v1}]}}}
- {name: f, service: greeter, split: {`+always("subset: v2")+`}}
`)
	rpc := request(sayHello, "user: alice")
	splits := set.Service("greeter").Splits(sayHello)
	var trace Trace
	d := Decision{Service: "greeter"}
	splits.Decide(rpc, &d, nil, &trace)
	chances := splits.Chances(rpc, Decision{Service: "greeter"})
	if len(chances) != 1 || len(chances[0].Seen) != 6 || len(trace.Policies) != 6 {
		t.Fatalf("%+v\n%+v", chances, trace.Policies)
	}
	for i, want := range []string{
		"the caller is not known, and the rule is for certain callers",
		`the RPC has no metadata "none", and so lies in no range`,
		fmt.Sprintf(`by its metadata "user" the RPC is at %d, and the range is 0-0`, share(seededHash(splits.list[2].ranges[0].seed, "alice"))),
		"*",
		`by metadata "user" "alice" with the seed "e"`,
		"where the RPC goes is decided already",
	} {
		for _, got := range []SplitTrace{trace.Policies[i], chances[0].Seen[i]} {
			if got.Why != want && want != "*" || got.Holds != (i == 4) || got.Places != (i == 4) || (got.Group == "v1") != (i == 4) || got.Policy != string(rune('a'+i)) {
				t.Errorf("%+v, want %q", got, want)
			}
		}
	}
	if got := trace.Policies[3].Why; got != "it is for 0/10000 of such RPCs, and by chance this is none of them" {
		t.Errorf("%q", got)
	}
	explained := set.Service("greeter").Explain(sayHello, false)
	if len(explained) != 6 || explained[0].Kind != KindSplit || explained[0].Policy != "a" || explained[0].Methods != "*" {
		t.Errorf("%+v", explained)
	}
}

// drawSplitPolicies draws policies of two services, some of which name groups alone.
func drawSplitPolicies(t *rapid.T) (list []*configv1.Policy) {
	for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
		split := drawSplit(t)
		canary := rapid.SampledFrom([]uint32{5000, 3000, 10000, 0}).Draw(t, "canary")
		split.Destinations[0].Weight, split.Destinations[1].Weight = shares-canary, canary
		switch rapid.IntRange(0, 3).Draw(t, "destinations") {
		case 0: // all are somewhere
		case 1:
			split.Destinations[1].Service = "other"
		case 2:
			split.Destinations[0].Group, split.Destinations[0].Subset = "v1", ""
		case 3:
			for _, d := range split.Destinations {
				d.Group, d.Subset = d.Subset, ""
			}
		}
		var match *configv1.RouteMatch // most hold for all, or several hardly ever would
		if rapid.IntRange(0, 3).Draw(t, "match") == 3 {
			match = drawMatch(t)
		}
		p := &configv1.SplitPolicy{Match: match, Split: split, Order: rapid.Uint32Range(0, 2).Draw(t, "order")}
		if rapid.IntRange(0, 4).Draw(t, "range") == 4 {
			p.Ranges = []*configv1.KeyRange{{
				Key: &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "a"}}, Seed: "s", Start: 0, End: rapid.Uint32Range(1, 10000).Draw(t, "end"),
			}}
		}
		list = append(list, &configv1.Policy{
			Name: fmt.Sprintf("p%d", i), Service: rapid.SampledFrom([]string{"greeter", "*"}).Draw(t, "service"),
			Methods: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"*", "a", "a/x", "b/x"}), 0, 2, rapid.ID).Draw(t, "methods"),
			Kind:    &configv1.Policy_Split{Split: p},
		})
	}
	return list
}

// groupsOf writes what came of an RPC.
func groupsOf(d Decision, chosen []Chosen) string {
	return dividedTo([]SplitChance{{Decision: d, Groups: chosen, Share: 1}})
}

// What Decide makes of an RPC is what its words say, policy by policy; with a trace it is
// the same; and it is among the chances, as often as they say.
func TestSplitPoliciesAreAsTheirModel(t *testing.T) {
	t.Parallel()
	chance, several := 0, 0 // RPCs of which something is left to chance, and in several groups
	defer func() {
		if !t.Failed() && (chance < 10 || several < 10) {
			t.Errorf("only %d RPCs were left to chance, %d in several groups", chance, several)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		policies := drawSplitPolicies(t)
		set, refused := Compile(policies, nil, Env{})
		if len(refused) > 0 {
			t.Fatal(refused)
		}
		rpc := drawRPC(t)
		from := rapid.SampledFrom([]Decision{{Service: "greeter"}, {Service: "greeter", Subset: "v0"}, {Service: "web"}}).Draw(t, "from")
		splits := set.Service(from.Service).Splits(rpc.Path)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7))

		share := map[string]float64{}
		for _, c := range splits.Chances(rpc, from) {
			share[groupsOf(c.Decision, c.Groups)] += c.Share
		}
		rounds := 400
		if len(share) == 1 {
			rounds = 5
		} else {
			chance++
		}
		came := map[string]float64{}
		for range rounds {
			drawn := random.Uint64()
			rpc.Random = func() uint64 { return drawn }
			d, traced, modelled := from, from, from
			chosen := splits.Decide(rpc, &d, nil, nil)
			got := groupsOf(d, chosen)
			again := splits.Decide(rpc, &traced, nil, new(Trace))
			want := modelOfSplits(policies, set, rpc, &modelled)
			if got != groupsOf(traced, again) || got != groupsOf(modelled, want) {
				t.Fatalf("%s, with a trace %s, want %s", got, groupsOf(traced, again), groupsOf(modelled, want))
			}
			if len(chosen) > 1 {
				several++
			}
			came[got] += 1 / float64(rounds)
		}
		for what, part := range came {
			if off := math.Abs(part - share[what]); share[what] == 0 || off > 6*math.Sqrt(share[what]*(1-share[what])/float64(rounds))+1/float64(rounds) {
				t.Fatalf("%s came in %v of RPCs, want %v of %v", what, part, share[what], share)
			}
		}
	})
}

// modelOfSplits is what the schema says of split policies.
func modelOfSplits(policies []*configv1.Policy, set *Set, rpc *RPC, d *Decision) (in []Chosen) {
	var hold []*entry
	for _, p := range policies {
		e := set.byName[p.GetName()]
		if p.GetService() != d.Service && p.GetService() != "*" {
			continue
		}
		if slices.ContainsFunc(e.selectors, func(s selector) bool { return s.selects(rpc.Path) }) {
			hold = append(hold, e)
		}
	}
	slices.SortStableFunc(hold, func(a, b *entry) int {
		x, y := a.source.GetSplit().GetOrder(), b.source.GetSplit().GetOrder()
		if x != y {
			return int(x) - int(y)
		}
		return strings.Compare(a.name(), b.name())
	})
	decided := d.Subset != ""
	dice := &dice{random: rpc.Random}
	for _, e := range hold {
		source, own := e.source.GetSplit(), e.split
		if !own.match.matches(rpc, dice, own.number+1) {
			continue
		}
		inRange := true
		for _, r := range source.GetRanges() {
			value := string(appendJoined(nil, rpc.Fields, r.GetKey().GetMetadata()))
			at := share(seededHash(own.ranges[0].seed, value))
			inRange = inRange && value != "" && at >= r.GetStart() && at < r.GetEnd()
		}
		somewhere := func(w *configv1.WeightedDestination) bool { return w.GetService() != "" || w.GetSubset() != "" }
		inRange = inRange || own.split.forced(rpc, nil) != nil
		if !inRange || decided && slices.ContainsFunc(source.GetSplit().GetDestinations(), somewhere) {
			continue
		}
		c := own.split.choose(rpc, dice, own.number, nil)
		in = append(in, c)
		for _, w := range source.GetSplit().GetDestinations() {
			if groupName(w) == c.Name && somewhere(w) {
				decided, d.Subset = true, w.GetSubset()
				if w.GetService() != "" {
					d.Service = w.GetService()
				}
			}
		}
	}
	return in
}
