package policy

import (
	"fmt"
	"strings"
	"testing"
)

// rules writes a thousand rules.
func thousandRules(rule string) string {
	var b strings.Builder
	for i := range 1000 {
		b.WriteString(fmt.Sprintf("- {name: r%d, match: {%s}, to: {service: s%d}}\n", i, fmt.Sprintf(rule, i), i))
	}
	return b.String()
}

// typical is the metadata of an RPC as clients make it.
var typical = []string{
	"te: trailers", "user-agent: grpc-go/1.85.0", "grpc-timeout: 1S", "grpc-accept-encoding: gzip",
	"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "authorization: Bearer abcdef",
}

// decisions are the cases that must cost an RPC nothing that grows with the rules, and
// no allocation.
func decisions(tb testing.TB) map[string]func() {
	byMethod := compiledRoute(tb, thousandRules("methods: [pkg.Service%d/Method]"))
	byService := compiledRoute(tb, thousandRules("methods: [pkg.Service%d]"))
	byMetadata := compiledRoute(tb, thousandRules(`metadata: [{key: user-id, exact: "%d"}]`))
	byCookie := compiledRoute(tb, thousandRules(`cookies: [{key: user, exact: "%d"}]`))
	byCaller := compiledRoute(tb, thousandRules("callers: [caller%d]"))
	mixed := compiledRoute(tb, thousandRules(`methods: [helloworld.Greeter], metadata: [{key: tenant-%d, exact: x}]`))
	hard := compiledRoute(tb, `
- {match: {metadata: [{key: a, prefix: x}]}, to: {service: s}}
- {match: {metadata: [{key: a, regex: "x.*y"}]}, to: {service: s}}
- {match: {metadata: [{key: n, range: {start: 1, end: 5}}]}, to: {service: s}}
- {match: {metadata: [{key: id-bin, bytes: eA==}]}, to: {service: s}}
- {match: {cookies: [{key: user, prefix: x}]}, to: {service: s}}
- {match: {metadata: [{key: a, exact: "1,3"}]}, to: {service: s}}
- {match: {fraction: 0}, to: {service: s}}`)
	split := compiledRoute(tb, "- split: {sticky: {key: {metadata: user-id}}, destinations: [{weight: 5000, subset: a}, {weight: 5000, subset: b}]}")
	chance := compiledRoute(tb, "- split: {destinations: [{weight: 5000, subset: a}, {weight: 5000, subset: b}]}")
	set := compiled(tb, thousandPolicies())
	decide := func(r *Route, rpc *RPC, matches bool) func() {
		return func() {
			if d := r.Decide(rpc, "greeter", nil); (d.Rule != nil) != matches {
				tb.Fatalf("%+v", d)
			}
		}
	}
	with := func(path string, more ...string) *RPC { return request(path, append(more, typical...)...) }
	byWeb := with(sayHello)
	byWeb.Caller = "caller500"
	return map[string]func(){
		"1000 methods, one matches":     decide(byMethod, with("/pkg.Service500/Method"), true),
		"1000 methods, none matches":    decide(byMethod, with(sayHello), false),
		"1000 services, one matches":    decide(byService, with("/pkg.Service500/Any"), true),
		"1000 services, none matches":   decide(byService, with(sayHello), false),
		"1000 values, one matches":      decide(byMetadata, with(sayHello, "user-id: 500"), true),
		"1000 values, none matches":     decide(byMetadata, with(sayHello, "user-id: x"), false),
		"1000 values, no key":           decide(byMetadata, with(sayHello), false),
		"1000 values, joined":           decide(byMetadata, with(sayHello, "user-id: 1", "user-id: 2"), false),
		"1000 cookies, one matches":     decide(byCookie, with(sayHello, "cookie: a=b; user=500"), true),
		"1000 cookies, none matches":    decide(byCookie, with(sayHello, "cookie: a=b; user=x; c=d"), false),
		"1000 callers, one matches":     decide(byCaller, byWeb, true),
		"1000 keys, none matches":       decide(mixed, with(sayHello), false),
		"each test, none matches":       decide(hard, with(sayHello, "a: y", "n: 7", "id-bin: eXk", "cookie: user=y"), false),
		"each test, hostile":            decide(hard, with(sayHello, "a: 1", "a: 2", "n: 99999999999999999999", "id-bin: !!,AA", "cookie: ;=;user"), false),
		"sticky split":                  decide(split, with(sayHello, "user-id: alice"), true),
		"split by chance":               decide(chance, with(sayHello), true),
		"1000 policies, method is said": func() { set.Service("greeter").Outbound("/pkg.Service500/Method") },
		"1000 policies, none is for it": func() {
			if set.Service("greeter").Outbound(sayHello) != nil || set.Service("other") != nil {
				tb.Fatal("something is said")
			}
		},
	}
}

func thousandPolicies() string {
	var b strings.Builder
	for i := range 1000 {
		selector := fmt.Sprintf("pkg.Service%d/Method", i)
		if i%2 == 1 {
			selector = fmt.Sprintf("pkg.Service%d/*", i)
		}
		fmt.Fprintf(&b, "- {name: p%d, service: greeter, methods: [%q], timeout: {default: 1s}}\n", i, selector)
	}
	return b.String()
}

func TestDecidingAllocatesNothing(t *testing.T) {
	// Package base64 makes an error of what is none, and values that are joined for a
	// regular expression need memory of their own.
	allowed := map[string]float64{"each test, hostile": 2}
	for name, decide := range decisions(t) {
		if n := testing.AllocsPerRun(200, decide); n > allowed[name] {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestChangingAllocatesNothingWhereNothingIsAdded(t *testing.T) {
	c := compiledRoute(t, `- {request: {set: {user-agent: x}, remove: [authorization, nothing]}}`).rules[0].Request
	original := fields(typical...)
	list := fields(typical...)
	if n := testing.AllocsPerRun(100, func() { c.Apply(append(list[:0], original...)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, decide := range decisions(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}
