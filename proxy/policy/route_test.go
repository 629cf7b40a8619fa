package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- {name: beta, match: {methods: [helloworld.Greeter/SayHello], metadata: [{key: beta, exact: "on"}]}, to: {subset: v2}, timeout: 3s, authority: beta.example}
- {name: batch, match: {callers: [batch, nightly]}, to: {service: slow}}
- {match: {methods: [helloworld.Old]}, status: {code: UNIMPLEMENTED}}
- {name: gone, match: {methods: [helloworld.Gone]}, status: {code: NOT_FOUND, message: gone}}
- {name: hello, match: {methods: [helloworld.Greeter]}, to: {service: hello, subset: blue}}`)
	batch := request(sayHello)
	batch.Caller = "nightly"
	for _, c := range []struct {
		rpc                   *RPC
		rule, service, subset string
	}{
		{request(sayHello, "beta: on"), "beta", "greeter", "v2"},
		{request(sayHello), "hello", "hello", "blue"},
		{batch, "batch", "slow", ""},
		{request("/helloworld.Old/Any"), "3", "greeter", ""},
		{request("/helloworld.Gone/Any"), "gone", "greeter", ""},
	} {
		d := r.Decide(c.rpc, "greeter", nil)
		if d.Rule == nil || d.Rule.Name != c.rule || d.Service != c.service || d.Subset != c.subset || d.Rule.Policy != "p" {
			t.Errorf("%s: %+v, want rule %q to %q, %q", c.rpc.Path, d, c.rule, c.service, c.subset)
		}
	}
	if d := r.Decide(request("/other.Service/Method"), "greeter", nil); d.Rule != nil || d.Service != "greeter" {
		t.Errorf("what no rule is for goes to %+v", d)
	}
	beta := r.Decide(request(sayHello, "beta: on"), "greeter", nil).Rule
	if beta.Timeout != 3*time.Second || beta.Authority != "beta.example" {
		t.Errorf("%+v", beta)
	}
	old := r.Decide(request("/helloworld.Old/Any"), "greeter", nil).Rule.Status
	if old.Code != codes.Unimplemented || !strings.Contains(old.Message, `policy "p", rule "3"`) {
		t.Errorf("%+v", old)
	}
	if gone := r.Decide(request("/helloworld.Gone/Any"), "greeter", nil).Rule.Status; *gone != (FixedStatus{codes.NotFound, "gone"}) {
		t.Errorf("%+v", gone)
	}
	var none *Route
	if d := none.Decide(request(sayHello), "greeter", nil); d != (Decision{Service: "greeter"}) {
		t.Errorf("no route: %+v", d)
	}
}

// A part of the RPCs is drawn once for each rule, whatever other rules there are.
func TestFractions(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- {name: half, match: {fraction: 5000}, to: {service: x}}
- {name: quarter, match: {fraction: 2500}, to: {service: x}}
- {name: none, match: {fraction: 0}, to: {service: x}}
- {name: rest, to: {service: x}}`)
	counts := map[string]int{}
	rpc := request(sayHello)
	const n = 40_000
	for range n {
		counts[r.Decide(rpc, "greeter", nil).Rule.Name]++
	}
	for rule, want := range map[string]float64{"half": 0.5, "quarter": 0.125, "rest": 0.375, "none": 0} {
		if got := float64(counts[rule]) / n; got < want-0.015 || got > want+0.015 {
			t.Errorf("%s has %.3f of the RPCs, not %.3f", rule, got, want)
		}
	}
}

// What people are told is what is done: the rules looked at one after the other, as a
// trace has it, and by the index, as RPCs have it.
func TestTheIndexDecidesAsTheTraceSays(t *testing.T) {
	t.Parallel()
	matched, rpcs := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		policy := drawRoute(t)
		p := fresh()
		r := p.compileRoute(policy, nil)
		if len(p.list) > 0 {
			t.Fatalf("%v", p.list)
		}
		for range 100 {
			rpc := drawRPC(t)
			seed := rpc.Random()
			again := func() func() uint64 { return func() uint64 { return seed } }
			var trace Trace
			rpc.Random = again()
			told := r.Decide(rpc, "greeter", &trace)
			rpc.Random = again()
			if done := r.Decide(rpc, "greeter", nil); done != told {
				t.Fatalf("%v is sent by %v, but the trace says %v:\n%+v", rpc, done, told, trace)
			}
			rpc.Random = again()
			rpc.Mark()
			if done := r.Decide(rpc, "greeter", nil); done != told {
				t.Fatalf("%v is sent by %v once it is marked, but the trace says %v:\n%+v", rpc, done, told, trace)
			}
			rpcs++
			if told.Rule != nil {
				matched++
			}
			checkTrace(t, r, policy, rpc, told, &trace)
		}
	})
	if rpcs < 10_000 && !t.Failed() {
		t.Errorf("only %d RPCs were tried", rpcs)
	}
	if matched < rpcs/10 || matched > rpcs*9/10+rpcs/20 {
		t.Errorf("%d of %d RPCs matched a rule: the world is too small or too large", matched, rpcs)
	}
}

// A method that is named by its path knows beforehand which rules the path finds.
func TestMethodsDecideAsTheirRoutesDo(t *testing.T) {
	t.Parallel()
	v := compiled(t, `
- {name: one, service: greeter, methods: [helloworld.Greeter/SayHello], timeout: {default: 1s}}
- {name: all, service: greeter, timeout: {default: 2s}}
- name: route
  service: greeter
  route:
    rules:
    - {name: path, match: {methods: [helloworld.Greeter/SayHello], metadata: [{key: a, present: true}]}, to: {subset: path}}
    - {name: service, match: {methods: [helloworld.Greeter], metadata: [{key: b, present: true}]}, to: {subset: service}}
    - {name: key, match: {metadata: [{key: c, exact: x}]}, to: {subset: key}}
- {name: parts, service: greeter, subsets: {subsets: {path: {}, service: {}, key: {}}}}
`).Service("greeter")
	for _, path := range []string{sayHello, "/helloworld.Greeter/Other", "/other.Service/Method"} {
		m := v.Outbound(path)
		if known := m.lists != nil; known != (path == sayHello) {
			t.Errorf("%s: rules are known beforehand: %v", path, known)
		}
		for _, metadata := range []string{"x: x", "a: x", "b: x", "c: x"} {
			rpc := request(path, metadata)
			if got, want := m.Decide(rpc, "greeter"), m.Route.Decide(rpc, "greeter", nil); got != want {
				t.Errorf("%s with %s goes to %+v, want %+v", path, metadata, got, want)
			}
		}
	}
	if d := v.Outbound(sayHello).Decide(request(sayHello, "a: x"), "greeter"); d.Subset != "path" {
		t.Errorf("the decision is %+v", d)
	}
}

// checkTrace holds a trace against the schema, read as plainly as can be.
func checkTrace(t *rapid.T, r *Route, policy *configv1.RoutePolicy, rpc *RPC, d Decision, trace *Trace) {
	if len(trace.Rules) != len(policy.GetRules()) {
		t.Fatalf("%d of %d rules are traced", len(trace.Rules), len(policy.GetRules()))
	}
	decided := 0
	for i, step := range trace.Rules {
		rule := policy.GetRules()[i]
		could := plainMatch(rule.GetMatch(), rpc)
		if step.Matched && !could || step.Rule != rule.GetName() || step.Policy != "p" {
			t.Fatalf("%v: %+v, though %v", rpc, step, rule)
		}
		if could && !step.Matched && (rule.GetMatch().Fraction == nil || rule.GetMatch().GetFraction() == 10000) {
			t.Fatalf("%v: %+v, though %v", rpc, step, rule)
		}
		if step.Decided {
			decided++
			if d.Rule != &r.rules[i] {
				t.Fatalf("%+v decided, but %+v is told", d, step)
			}
		} else if step.Why == "" {
			t.Fatalf("no reason: %+v", step)
		}
	}
	if want := 0; d.Rule != nil {
		want = 1
		if decided != want {
			t.Fatalf("%d rules decided", decided)
		}
	}
	if (d.Group != nil) != (trace.Split != nil) || d.Group != nil && (trace.Split.Group != d.Group.Name || trace.Split.Why == "") {
		t.Fatalf("group %+v, told as %+v", d.Group, trace.Split)
	}
}

// plainMatch says whether a match is for an RPC, chance left out.
func plainMatch(m *configv1.RouteMatch, rpc *RPC) bool {
	if len(m.GetMethods()) > 0 {
		any := false
		for _, text := range m.GetMethods() {
			s, _ := parseSelector(text)
			any = any || s.selects(rpc.Path)
		}
		if !any {
			return false
		}
	}
	if len(m.GetCallers()) > 0 {
		any := false
		for _, caller := range m.GetCallers() {
			any = any || caller == rpc.Caller
		}
		if !any {
			return false
		}
	}
	for _, c := range m.GetMetadata() {
		if !plain(c, rpc.Fields) {
			return false
		}
	}
	for _, c := range m.GetCookies() {
		list := fields()
		if value, found := asked(rpc.Fields).cookie(c.GetKey()); found {
			list = fields(c.GetKey() + ": " + value)
		}
		if !plain(c, list) {
			return false
		}
	}
	return m.Fraction == nil || m.GetFraction() > 0
}

// An index has room for so many keys; what is beyond it is found all the same.
func TestMoreKeysThanTheIndexTellsApart(t *testing.T) {
	t.Parallel()
	policy := &configv1.RoutePolicy{}
	to := &configv1.RouteRule_To{To: &configv1.Destination{}}
	for i := range maxKeys + 50 {
		policy.Rules = append(policy.Rules,
			&configv1.RouteRule{Action: to, Match: &configv1.RouteMatch{Metadata: []*configv1.MetadataMatch{{Key: fmt.Sprintf("k%d", i), Condition: &configv1.MetadataMatch_Exact{Exact: "1"}}}}},
			&configv1.RouteRule{Action: to, Match: &configv1.RouteMatch{Cookies: []*configv1.MetadataMatch{{Key: fmt.Sprintf("k%d", i), Condition: &configv1.MetadataMatch_Exact{Exact: "1"}}}}},
		)
	}
	r := fresh().compileRoute(policy, nil)
	if len(r.index.metadata) != maxKeys || len(r.index.cookies) != maxKeys || len(r.index.rest) != 100 {
		t.Errorf("the index has %d keys, %d cookies and %d others", len(r.index.metadata), len(r.index.cookies), len(r.index.rest))
	}
	for _, i := range []int{0, maxKeys - 1, maxKeys, maxKeys + 49} {
		for j, metadata := range []string{fmt.Sprintf("k%d: 1", i), fmt.Sprintf("cookie: k%d=1", i)} {
			if d := r.Decide(request(sayHello, metadata), "greeter", nil); d.Rule != &r.rules[2*i+j] {
				t.Errorf("%s: %+v", metadata, d.Rule)
			}
		}
	}
}
