package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestTracesSayWhy(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- {name: method, match: {methods: [helloworld.Greeter/SayBye]}, to: {service: x}}
- {name: caller, match: {callers: [web]}, to: {service: x}}
- {name: exact, match: {metadata: [{key: user, exact: bob}]}, to: {service: x}}
- {name: missing, match: {metadata: [{key: other, prefix: b}]}, to: {service: x}}
- {name: not, match: {metadata: [{key: user, exact: alice, invert: true}]}, to: {service: x}}
- {name: cookie, match: {cookies: [{key: session, present: true}]}, to: {service: x}}
- {name: range, match: {metadata: [{key: user, range: {start: 1, end: 9}}]}, to: {service: x}}
- {name: bytes, match: {metadata: [{key: id-bin, bytes: eA==}]}, to: {service: x}}
- {name: chance, match: {fraction: 0}, to: {service: x}}
- {name: split, split: {sticky: {key: {metadata: user}}, destinations: [{weight: 9000, subset: v1}, {weight: 1000, subset: v2}]}}
- {name: later, match: {fraction: 100}, to: {service: x}}
- {name: latest, match: {metadata: [{key: user, suffix: x}]}, to: {service: x}}`)
	rpc := request(sayHello, "user: alice", "id-bin: eQ")
	rpc.Caller = "batch"
	var trace Trace
	d := r.Decide(rpc, "greeter", &trace)
	want := map[string]string{
		"method":  "the method helloworld.Greeter/SayHello is none of the rule's",
		"caller":  `the caller "batch" is none of the rule's`,
		"exact":   `metadata "user" of "bob" is wanted, but the RPC has "alice"`,
		"missing": `metadata "other" that begins with "b" is wanted, but the RPC has none`,
		"not":     `no metadata "user" of "alice" is wanted, but the RPC has "alice"`,
		"cookie":  `cookie "session" is wanted, but the RPC has none`,
		"range":   `metadata "user" from 1 up to and without 9 is wanted, but the RPC has "alice"`,
		"bytes":   `metadata "id-bin" of the bytes eA== is wanted, but the RPC has eQ (base64)`,
		"chance":  "it is for 0/10000 of such RPCs, and by chance this is none of them",
		"split":   "",
		"later":   `rule "split" comes before it and matches (this one is for 100/10000 of such RPCs)`,
		"latest":  `metadata "user" that ends with "x" is wanted, but the RPC has "alice"`,
	}
	for _, step := range trace.Rules {
		if step.Why != want[step.Rule] {
			t.Errorf("%s: %s\nnot %s", step.Rule, step.Why, want[step.Rule])
		}
	}
	s := trace.Split
	if d.Group.Name != s.Group || s.Key != "alice" || s.Seed != "p/split" || s.Why != `by metadata "user" "alice" with the seed "p/split"` || s.Bucket < 0 ||
		len(s.Segments) != 2 || s.Segments[0] != (SegmentTrace{"v2", 0, 1000}) || s.Segments[1] != (SegmentTrace{"v1", 1000, 10000}) {
		t.Errorf("%+v", s)
	}
	for i, step := range trace.Rules {
		if step.Policy != "p" || step.Decided != (i == 9) || step.Matched != (i == 9 || i == 10) {
			t.Errorf("%+v", step)
		}
	}
}

func TestExplainSaysWhoLost(t *testing.T) {
	t.Parallel()
	told := compiled(t, severalPolicies).Service("greeter").Explain("/helloworld.Greeter/SayBye", false)
	by := "\"helloworld.Greeter/Say*\" of policy \"say\" is more exact than "
	for _, want := range []KindTrace{
		{Kind: KindTimeout, Policy: "say", Service: "greeter", Methods: "helloworld.Greeter/Say*", Lost: []LostTrace{
			{"greeter", by + `"*"`}, {"hello", "it is for other methods"}, {"all", by + `"*"`}, {"all-hello", by + `"helloworld.*"`},
		}},
		{Kind: KindRetry, Policy: "again", Service: "greeter", Methods: "*", Lost: []LostTrace{{"hedge", "it is for other methods"}}},
		{Kind: KindLoadBalancing, Policy: "lb", Service: "greeter"},
		{Kind: KindOutlierEjection, Policy: "eject", Service: "*"},
	} {
		i := slices.IndexFunc(told, func(t KindTrace) bool { return t.Kind == want.Kind })
		if i < 0 || !reflect.DeepEqual(told[i], want) {
			t.Errorf("%+v\nis not among\n%+v", want, told)
		}
	}
}

func TestLongValuesAreShownInPart(t *testing.T) {
	t.Parallel()
	if s := shorten(strings.Repeat("ü", 200)); len(s) > shownValue+3 || !strings.HasSuffix(s, "ü…") {
		t.Errorf("%q", s)
	}
}
