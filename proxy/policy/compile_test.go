package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
)

const severalPolicies = `
- {name: all, service: "*", timeout: {default: 9s}}
- {name: all-hello, service: "*", methods: [helloworld.*], timeout: {default: 8s}}
- {name: greeter, service: greeter, timeout: {default: 7s}}
- {name: say, service: greeter, methods: [helloworld.Greeter/Say*], timeout: {default: 6s}}
- {name: hello, service: greeter, methods: [helloworld.Greeter/SayHello], timeout: {default: 5s}}
- {name: in, service: greeter, inbound: true, timeout: {default: 4s}}
- {name: again, service: greeter, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE]}}
- {name: hedge, service: greeter, methods: [helloworld.Greeter/SayHello], hedging: {max_attempts: 2}}
- {name: break, service: "*", circuit_breaker: {trip: {consecutive_failures: 3}, per_instance: {consecutive_failures: 5}}}
- {name: limit, service: greeter, inbound: true, rate_limit: {limits: [{requests: 1}]}}
- {name: fault, service: greeter, fault: {abort: {status: {code: ABORTED}, fraction: 10000}}}
- {name: lb, service: greeter, load_balancing: {policy: ring_hash, hash: {metadata: user}, failover: [{service: other}]}}
- {name: subsets, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}}, default: v1}}
- {name: eject, service: "*", outlier_ejection: {consecutive_failures: 3}}
- {name: health, service: greeter, health_check: {grpc_service: x}}
`

func TestTheMostExactPolicyHolds(t *testing.T) {
	t.Parallel()
	set := compiled(t, severalPolicies)
	for _, c := range []struct{ service, path, timeout string }{
		{"greeter", sayHello, "hello"},
		{"greeter", "/helloworld.Greeter/SayBye", "say"},
		{"greeter", "/helloworld.Greeter/Sing", "all-hello"}, // more exact than what names the service
		{"greeter", "/other.Service/Method", "greeter"},
		{"other", sayHello, "all-hello"},
		{"other", "/other.Service/Method", "all"},
	} {
		if m := set.Service(c.service).Outbound(c.path); m.Timeout.Policy != c.timeout {
			t.Errorf("%s%s: %s, not %s", c.service, c.path, m.Timeout.Policy, c.timeout)
		}
	}
	hello, bye := set.Service("greeter").Outbound(sayHello), set.Service("greeter").Outbound("/helloworld.Greeter/SayBye")
	if hello.Hedging == nil || hello.Retry != nil || hello.Breaker.Name != "break" || hello.Fault == nil || hello.RateLimit != nil {
		t.Errorf("%+v", hello)
	}
	if bye.Hedging != nil || bye.Retry == nil || bye.Retry.MaxAttempts != 3 {
		t.Errorf("%+v", bye)
	}
	in := set.Service("greeter").Inbound(sayHello)
	if in.Timeout.Default != 4*time.Second || in.RateLimit == nil || in.Breaker != nil || in.Retry != nil {
		t.Errorf("%+v", in)
	}
	if m := set.Service("other").Inbound(sayHello); m != nil {
		t.Errorf("%+v", m)
	}
	cluster := set.Service("greeter").Cluster()
	if cluster.Balance.Policy != balance.RingHash || cluster.DefaultSubset != "v1" || cluster.Subsets["v1"].Meta["version"] != "v1" ||
		cluster.Ejection.ConsecutiveFailures != 3 || cluster.Health.Service != "x" || cluster.Breaker.ConsecutiveFailures != 5 || cluster.BreakerPolicy != "break" {
		t.Errorf("%+v", cluster)
	}
	if other := set.Service("other").Cluster(); other.Balance.Policy != balance.ByDefault || other.Health != nil || other.Ejection == nil {
		t.Errorf("%+v", other)
	}
	if f := set.Service("greeter").Failover(""); !slices.Equal(f, []Target{{Service: "other"}}) {
		t.Errorf("%+v", f)
	}
	if _, ok := set.Service("greeter").HashKey().Hash(request(sayHello, "user: x")); !ok || set.Service("other").HashKey() != nil {
		t.Error("what is hashed is not found")
	}
}

func TestWhatIsNotSaid(t *testing.T) {
	t.Parallel()
	var set *Set
	v := set.Service("greeter")
	if v.Outbound("/a/b") != nil || v.Inbound("/a/b") != nil || v.Cluster() != nil || v.HashKey() != nil || v.Failover("") != nil || v.Explain("/a/b", false) != nil || set.Version() != "" {
		t.Error("something is said")
	}
	if _, ok := (*Fault)(nil).Decide(request(sayHello)); ok {
		t.Error("a fault is made")
	}
	if _, ok := (*RateLimit)(nil).Take(time.Now(), request(sayHello)); !ok {
		t.Error("a limit is reached")
	}
}

func TestPoliciesThatAreRefused(t *testing.T) {
	t.Parallel()
	refused := refusalsOf(written(t, `
- {name: base, service: greeter, methods: [a.B], timeout: {default: 1s}}
- {name: twice, service: greeter, methods: [c.D, a.B/*], timeout: {default: 1s}}
- {name: retry, service: greeter, methods: [a.B], retry: {max_attempts: 2, conditions: [connect-failure]}}
- {name: hedged, service: greeter, methods: [a.B], hedging: {max_attempts: 2}}
- {name: lb, service: greeter, load_balancing: {policy: random}}
- {name: lb2, service: greeter, load_balancing: {policy: random}}
- {name: lb3, service: other, methods: [a.B], load_balancing: {policy: maglev, table_size: 100, bounded_load: 0.5, failover: [{}]}}
- {name: in, service: greeter, inbound: true, route: {rules: [{to: {service: x}}]}}
- {name: slash, service: s1, methods: [a.B/], timeout: {default: 1s}}
- {name: dup, service: s1, methods: [a.B, a.B/*], timeout: {default: 1s}}
- {name: names, service: s2, route: {rules: [{name: "2", to: {service: x}}, {to: {service: x}}]}}
- {name: nothing, service: s3, route: {rules: [{match: {fraction: 1}}]}}
- {name: never, service: s3, retry: {max_attempts: 2}}
- {name: slow, service: s4, circuit_breaker: {trip: {slow_call_ratio: 0.5}}}
- {name: beside, service: s4, inbound: true, circuit_breaker: {trip: {consecutive_failures: 1}}}
- {name: methods, service: s5, methods: [a.B], circuit_breaker: {per_instance: {consecutive_failures: 1}}}
- {name: pending, service: s6, circuit_breaker: {max_pending: 1}}
- {name: ring, service: s7, subsets: {subsets: {a: {fallback: b}, b: {fallback: a}, c: {fallback: d}, any: {}}, default: e}}
- {name: fault, service: s8, fault: {delay: {fraction: 1}, abort: {fraction: 1}}}
- {name: max, service: s9, timeout: {default: 3s, max: 2s}}
- {name: yields, service: s11, route: {rules: [{yields: true, to: {service: x}}, {yields: true, to: {subset: any}}]}}
- {name: mirror, service: s10, route: {rules: [{status: {code: OK}, mirror: {to: {service: x}}}]}}
`))
	want := map[string][]string{
		"twice":   {"methods[1]"},
		"hedged":  {"methods[0]"},
		"lb2":     {"service"},
		"lb3":     {"methods", "load_balancing.hash", "load_balancing.table_size", "load_balancing.bounded_load", "load_balancing.failover[0]"},
		"in":      {"inbound"},
		"slash":   {"methods[0]"},
		"dup":     {"methods[1]"},
		"names":   {"route.rules[1].name"},
		"nothing": {"route.rules[0]"},
		"never":   {"retry"},
		"slow":    {"circuit_breaker.trip.slow_call"},
		"beside":  {"circuit_breaker.trip"},
		"methods": {"circuit_breaker.per_instance"},
		"pending": {"circuit_breaker", "circuit_breaker.max_pending"},
		"ring":    {`subsets.subsets["a"].fallback`, `subsets.subsets["any"]`, `subsets.subsets["b"].fallback`, `subsets.subsets["c"].fallback`, "subsets.default"},
		"fault":   {"fault.delay.for", "fault.abort.status"},
		"max":     {"timeout.default"},
		"yields":  {"route.rules[0].yields"},
		"mirror":  {"route.rules[0].mirror"},
	}
	got := map[string][]string{}
	for _, r := range refused {
		got[r.Policy] = append(got[r.Policy], r.Field)
		if r.Message == "" || r.Kept || strings.Contains(r.Error(), "\n") {
			t.Errorf("%+v", r)
		}
	}
	for name := range got {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s: %q, not %q: %v", name, got[name], want[name], refused)
		}
	}
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s is not refused", name)
		}
	}
}

// What is wrong is refused alone, and what it said before holds on.
func TestTheLastGoodVersionStays(t *testing.T) {
	t.Parallel()
	first := compiled(t, `
- {name: a, service: greeter, timeout: {default: 1s}}
- {name: b, service: other, timeout: {default: 1s}}
- {name: c, service: third, timeout: {default: 1s}}`)
	second, refused := Compile(written(t, `
- {name: a, service: greeter, timeout: {default: 2s, max: 1s}}
- {name: b, service: other, timeout: {default: 3s}}
- {name: new, service: fourth, timeout: {default: 2s, max: 1s}}
- {name: taker, service: third, timeout: {default: 4s}}
- {name: c, service: third, timeout: {default: 2s, max: 1s}}`), first, Env{})
	kept := map[string]bool{}
	for _, r := range refused {
		kept[r.Policy] = r.Kept
	}
	if fmt.Sprint(kept) != "map[a:true c:false new:false]" {
		t.Errorf("refused: %v", refused)
	}
	for service, want := range map[string]time.Duration{"greeter": time.Second, "other": 3 * time.Second, "third": 4 * time.Second} {
		if m := second.Service(service).Outbound("/x/y"); m.Timeout.Default != want {
			t.Errorf("%s: %v, not %v", service, m.Timeout.Default, want)
		}
	}
	if second.Service("fourth") != nil || second.Len() != 3 {
		t.Errorf("%d policies are in force", second.Len())
	}
	// It is refused for as long as it is wrong, and holds on as long.
	third, refused := Compile(written(t, "- {name: a, service: greeter, timeout: {default: 2s, max: 1s}}"), second, Env{})
	if len(refused) != 1 || !refused[0].Kept || third.Service("greeter").Outbound("/x/y").Timeout != first.Service("greeter").Outbound("/x/y").Timeout {
		t.Errorf("refused: %v", refused)
	}
	if third.Service("other") != nil {
		t.Error("a policy that was taken out is in force")
	}
}

const statefulPolicies = `
- {name: break, service: "*", circuit_breaker: {trip: {consecutive_failures: 3}}}
- {name: limit, service: greeter, rate_limit: {limits: [{requests: 1, interval: 3600s}, {requests: 5, interval: 3600s, key: {metadata: user}}]}}
- {name: again, service: greeter, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE]}}
- {name: fault, service: greeter, fault: {abort: {status: {code: ABORTED}, fraction: 0}}}
- {name: eject, service: greeter, outlier_ejection: {}}
- {name: lb, service: greeter, load_balancing: {policy: random}}
`

// What policies remember outlives a change that does not concern it.
func TestStateOutlivesChangesOfOthers(t *testing.T) {
	t.Parallel()
	first := compiled(t, statefulPolicies)
	now := time.Unix(1, 0)
	rpc := request(sayHello)
	was := first.Service("greeter").Outbound(sayHello)
	if _, ok := was.RateLimit.Take(now, rpc); !ok {
		t.Fatal("the first RPC is refused")
	}
	second, refused := Compile(written(t, statefulPolicies+"- {name: more, service: greeter, timeout: {default: 1s}}\n"), first, Env{})
	is := second.Service("greeter").Outbound(sayHello)
	if len(refused) > 0 || is.Breaker != was.Breaker || is.RateLimit != was.RateLimit || is.Retry != was.Retry || is.Fault != was.Fault {
		t.Errorf("something was made anew: %v", refused)
	}
	if second.Service("greeter").Cluster() != first.Service("greeter").Cluster() {
		t.Error("the cluster is told of a change that there is not")
	}
	// Other methods are no change of what is said, and the backoff none of the budget.
	third, _ := Compile(written(t, strings.NewReplacer(
		`service: "*", circuit`, `service: "*", methods: [helloworld.*], circuit`,
		"max_attempts: 3", "max_attempts: 4",
		"{requests: 5, interval: 3600s,", "{requests: 6, interval: 3600s,",
		"policy: random", "policy: round_robin",
	).Replace(statefulPolicies)), second, Env{})
	is = third.Service("greeter").Outbound(sayHello)
	if is.Breaker != was.Breaker || is.Retry == was.Retry || is.Retry.Limits != was.Retry.Limits || is.Retry.Limits == nil {
		t.Error("what did not change was made anew, or what changed was not")
	}
	if reached, ok := is.RateLimit.Take(now, rpc); ok || reached.Number != 1 || reached.Policy != "limit" {
		t.Errorf("the bucket is full again: %+v", reached)
	}
	if third.Service("greeter").Cluster() == second.Service("greeter").Cluster() || third.Service("greeter").Cluster().Ejection != second.Service("greeter").Cluster().Ejection {
		t.Error("the cluster is not told what changed, or of more")
	}
	// What is about another service remembers nothing of this one.
	fourth, _ := Compile(written(t, strings.ReplaceAll(statefulPolicies, "service: greeter", "service: other")), second, Env{})
	if m := fourth.Service("other").Outbound(sayHello); m.RateLimit == was.RateLimit || m.Retry.Limits == was.Retry.Limits {
		t.Error("another service's state was taken over")
	}
}

func TestUnknownSubsets(t *testing.T) {
	t.Parallel()
	const subsets = "- {name: subsets, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}\n"
	route := func(subset string) string {
		return "- {name: route, service: greeter, route: {rules: [{to: {subset: " + subset + "}}]}}\n"
	}
	if refused := refusalsOf(written(t, route("v3")+subsets)); len(refused) != 1 || refused[0].Field != "route.rules[0].to.subset" ||
		!strings.Contains(refused[0].Message, `has no subset "v3": policy "subsets" has v1, v2`) {
		t.Errorf("%v", refused)
	}
	if refused := refusalsOf(written(t, route("v3"))); len(refused) != 0 {
		t.Errorf("without a subsets policy: %v", refused)
	}
	other := "- {name: route, service: web, route: {rules: [{mirror: {to: {service: greeter, subset: v9}}}, {split: {destinations: [{weight: 10000, service: greeter, subset: v8}]}}]}}\n"
	if refused := refusalsOf(written(t, subsets+other)); len(refused) != 2 || refused[0].Field != "route.rules[0].mirror.to.subset" || refused[1].Field != "route.rules[1].split.destinations[0].subset" {
		t.Errorf("%v", refused)
	}
	first := compiled(t, subsets+route("v2"))
	for name, yaml := range map[string]string{
		"a route to an unknown subset": subsets + route("v3"),
		"a subset that is gone":        strings.ReplaceAll(subsets, "v2", "v4") + route("v2"),
	} {
		set, refused := Compile(written(t, yaml), first, Env{})
		if len(refused) != 1 || !refused[0].Kept || refused[0].Policy != "route" {
			t.Errorf("%s: %v", name, refused)
		}
		if d := set.Service("greeter").Outbound(sayHello).Route.Decide(request(sayHello), "greeter", nil); d.Subset != "v2" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	first, same := compiled(t, severalPolicies), compiled(t, severalPolicies)
	backwards := written(t, severalPolicies)
	slices.Reverse(backwards)
	reversed, _ := Compile(backwards, nil, Env{})
	if v := first.Version(); len(v) != 16 || v != same.Version() || v != reversed.Version() {
		t.Errorf("the same policies are %q, %q and %q", v, same.Version(), reversed.Version())
	}
	backwards[0].Methods = append(backwards[0].Methods, "a.B")
	backwards[len(backwards)-1].Kind = &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{Default: backwards[len(backwards)-2].GetTimeout().GetDefault()}}
	if changed, _ := Compile(backwards, nil, Env{}); changed.Version() == first.Version() {
		t.Error("other policies have the same version")
	}
	if reversed.Version() != first.Version() {
		t.Error("a set changes with the messages that it was made of")
	}
}

// Which policy holds is the same by the tables that RPCs use and by a look at each.
func TestTablesHoldWhatIsExplained(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var policies []*configv1.Policy
		for i := range rapid.IntRange(1, 15).Draw(t, "policies") {
			m := &configv1.Policy{Name: fmt.Sprintf("p%d", i), Service: rapid.SampledFrom([]string{"*", "greeter"}).Draw(t, "service"), Inbound: rapid.Bool().Draw(t, "inbound")}
			for range rapid.IntRange(0, 2).Draw(t, "methods") {
				m.Methods = append(m.Methods, drawSelector(t, "methods").String())
			}
			if rapid.Bool().Draw(t, "timeout") {
				m.Kind = &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{Default: durationpb.New(time.Second)}}
			} else if m.Inbound = false; rapid.Bool().Draw(t, "retry") {
				m.Kind = &configv1.Policy_Retry{Retry: &configv1.RetryPolicy{MaxAttempts: 2, Conditions: []string{conditionConnectFailure}}}
			} else {
				m.Kind = &configv1.Policy_Hedging{Hedging: &configv1.HedgingPolicy{MaxAttempts: 2}}
			}
			policies = append(policies, m)
		}
		set, _ := Compile(policies, nil, Env{})
		for range 10 {
			path := drawPath(t, "path")
			for _, service := range []string{"greeter", "other"} {
				v := set.Service(service)
				checkExplained(t, v.Explain(path, false), v.Outbound(path))
				checkExplained(t, v.Explain(path, true), v.Inbound(path))
			}
		}
	})
}

func checkExplained(t *rapid.T, told []KindTrace, m *Method) {
	if m == nil {
		m = &Method{}
	}
	var timeout, again string
	for _, k := range told {
		switch k.Kind {
		case KindTimeout:
			timeout = k.Policy
		case KindRetry, KindHedging:
			again = k.Policy
		}
		for _, l := range k.Lost {
			if l.Why == "" || l.Policy == k.Policy {
				t.Fatalf("%+v", k)
			}
		}
	}
	holds := ""
	if m.Retry != nil {
		holds = m.Retry.Name
	} else if m.Hedging != nil {
		holds = m.Hedging.Name
	}
	if holds != again || m.Retry != nil && m.Hedging != nil {
		t.Fatalf("%q holds, but %q is told: %+v", holds, again, told)
	}
	if m.Timeout == nil && timeout != "" || m.Timeout != nil && m.Timeout.Policy != timeout {
		t.Fatalf("%+v holds, but %q is told: %+v", m.Timeout, timeout, told)
	}
}
