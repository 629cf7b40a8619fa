package policy

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// thousand is a route with a thousand rules.
func thousand(tb testing.TB, match func(i int) *configv1.RouteMatch) *Route {
	m := &configv1.RoutePolicy{}
	for i := range 1000 {
		m.Rules = append(m.Rules, &configv1.RouteRule{
			Match:  match(i),
			Action: &configv1.RouteRule_To{To: &configv1.Destination{Service: fmt.Sprintf("s%d", i)}},
		})
	}
	p := fresh()
	r := p.compileRoute(m, nil)
	if len(p.list) > 0 {
		tb.Fatal(p.list)
	}
	return r
}

func methods(format string) func(i int) *configv1.RouteMatch {
	return func(i int) *configv1.RouteMatch {
		return &configv1.RouteMatch{Methods: []string{fmt.Sprintf(format, i)}}
	}
}

func exactly(key, format string, i int) []*configv1.MetadataMatch {
	return []*configv1.MetadataMatch{{Key: key, Condition: &configv1.MetadataMatch_Exact{Exact: fmt.Sprintf(format, i)}}}
}

// typical is the metadata of an RPC as clients make it.
var typical = []string{
	"te: trailers", "user-agent: grpc-go/1.85.0", "grpc-timeout: 1S", "grpc-accept-encoding: gzip",
	"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "authorization: Bearer abcdef",
}

// decisions are the cases that must cost an RPC nothing that grows with the rules, and
// no allocation.
func decisions(tb testing.TB) map[string]func() {
	byMethod := thousand(tb, methods("pkg.Service%d/Method"))
	byService := thousand(tb, methods("pkg.Service%d"))
	byMetadata := thousand(tb, func(i int) *configv1.RouteMatch {
		return &configv1.RouteMatch{Metadata: exactly("user-id", "%d", i)}
	})
	byCookie := thousand(tb, func(i int) *configv1.RouteMatch {
		return &configv1.RouteMatch{Cookies: exactly("user", "%d", i)}
	})
	byCaller := thousand(tb, func(i int) *configv1.RouteMatch {
		return &configv1.RouteMatch{Callers: []string{fmt.Sprintf("caller%d", i)}}
	})
	mixed := thousand(tb, func(i int) *configv1.RouteMatch {
		return &configv1.RouteMatch{Methods: []string{"helloworld.Greeter"}, Metadata: exactly(fmt.Sprintf("tenant-%d", i), "x%d", i)}
	})
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
	canary := compiled(tb, `
- {name: canary, service: greeter, split: {split: {sticky: {key: {metadata: user-id}}, destinations: [{weight: 9000, subset: v1}, {weight: 1000, subset: v2}]}}}`)
	several := ""
	for i := range maxSplits {
		several += fmt.Sprintf("- {name: s%d, service: greeter, split: {match: {metadata: [{key: tenant, exact: x%d}]}, split: {destinations: [{weight: 10000, group: g}]}}}\n", i, i)
	}
	some := compiled(tb, several)
	layered := compiled(tb, `
- {name: a, service: greeter, split: {ranges: [{key: {metadata: user-id}, seed: l, start: 0, end: 10000}], split: {sticky: {key: {metadata: user-id}}, destinations: [{weight: 5000, group: a}, {weight: 5000, group: b}]}}}
- {name: b, service: greeter, split: {split: {allow_force: true, destinations: [{weight: 5000, group: a}, {weight: 5000, group: b}]}}}`)
	var chosen []Chosen
	divide := func(set *Set, groups int, rpc *RPC) func() {
		rpc.Mark()
		return func() {
			d := Decision{Service: "greeter"}
			if chosen = set.Service("greeter").Splits(rpc.Path).Decide(rpc, &d, chosen[:0], nil); len(chosen) != groups {
				tb.Fatalf("%+v", chosen)
			}
		}
	}
	set, refused := Compile(thousandPolicies(), nil, Env{})
	if len(refused) > 0 {
		tb.Fatal(refused)
	}
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
		"canary":                        divide(canary, 1, with(sayHello, "user-id: alice")),
		"canary, no key":                divide(canary, 1, with(sayHello)),
		"32 splits, none matches":       divide(some, 0, with(sayHello, "tenant: y")),
		"32 splits, one matches":        divide(some, 1, with(sayHello, "tenant: x31")),
		"two experiments":               divide(layered, 2, with(sayHello, "user-id: alice", "pillion-force: b")),
		"no splits":                     divide(set, 0, with(sayHello)),
		"1000 policies, method is said": func() { set.Service("greeter").Outbound("/pkg.Service500/Method") },
		"1000 policies, none is for it": func() {
			if set.Service("greeter").Outbound(sayHello) != nil || set.Service("other") != nil {
				tb.Fatal("something is said")
			}
		},
	}
}

// thousandPolicies are about a method or a gRPC service each.
func thousandPolicies() (list []*configv1.Policy) {
	for i := range 1000 {
		list = append(list, &configv1.Policy{
			Name:    fmt.Sprintf("p%d", i),
			Service: "greeter",
			Methods: []string{fmt.Sprintf([]string{"pkg.Service%d/Method", "pkg.Service%d"}[i%2], i)},
			Kind:    &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{Default: durationpb.New(time.Second)}},
		})
	}
	return list
}

func TestDecidingAllocatesNothing(t *testing.T) {
	// Package base64 makes an error of what is none, and values that are joined need
	// memory of their own and are remembered.
	allowed := map[string]float64{"each test, hostile": 3}
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
