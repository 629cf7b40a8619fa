package access

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/registry"
)

// many returns a policy of so many rules, each for a caller and a method of its own, with
// a deny for each tenth, and a few rules for all.
func many(tb testing.TB, rules int) *Policy {
	tb.Helper()
	w := &Written{Name: "orders"}
	for i := range rules {
		from, err := ParseFrom(fmt.Sprintf("spiffe://example.org/svc/caller-%d", i%(rules/10+1)))
		if err != nil {
			tb.Fatal(err)
		}
		w.Rules = append(w.Rules, Rule{
			Name: fmt.Sprint(i), Allow: i%10 != 9, From: []From{from},
			Methods: []Selector{{Path: fmt.Sprintf("/shop.Orders/M%d", i), Exact: true}, {Path: fmt.Sprintf("/shop.S%d/", i)}},
		})
	}
	all := policy(tb, "all", "deny methods=/admin.*", "allow methods=/grpc.health.v1.Health/*")
	return New(NewRules(w, all), nil, env)
}

// manyFor returns a policy of so many rules for one caller.
func manyFor(tb testing.TB, rules int) *Policy {
	tb.Helper()
	w := policy(tb, "orders")
	for i := range rules {
		w.Rules = append(w.Rules, Rule{
			Name: fmt.Sprint(i), Allow: i%10 != 9,
			Methods: []Selector{{Path: fmt.Sprintf("/shop.Orders/M%d", i), Exact: true}, {Path: fmt.Sprintf("/shop.S%d/", i)}},
		})
	}
	return New(NewRules(w), nil, env)
}

// manyIntentions returns a policy of so many intentions with permissions.
func manyIntentions(n int) *Policy {
	in := &registry.Intentions{TrustDomain: "dc.consul"}
	for i := range n {
		in.List = append(in.List, from(fmt.Sprintf("caller-%d", i), false, registry.IntentionPermission{Allow: true, PathExact: list}))
	}
	return New(nil, in, env)
}

var sizes = []int{10, 10_000}

func consulCaller(i int) spiffeid.ID {
	return id(fmt.Sprintf("spiffe://dc.consul/ns/default/dc/dc1/svc/caller-%d", i))
}

// However many rules and intentions there are, each holds.
func TestManyRules(t *testing.T) {
	t.Parallel()
	fields := request(list, "x-team: a")
	for _, n := range sizes {
		rules, forOne, intentions := many(t, n), manyFor(t, n), manyIntentions(n)
		callers := n/10 + 1
		for i := range n {
			own, other := id(fmt.Sprintf("spiffe://example.org/svc/caller-%d", i%callers)), id(fmt.Sprintf("spiffe://example.org/svc/caller-%d", (i+1)%callers))
			for _, path := range []string{fmt.Sprintf("/shop.Orders/M%d", i), fmt.Sprintf("/shop.S%d/Any", i)} {
				allowed := i%10 != 9
				if d := rules.ForID(own).Decide(path, fields); d.Allowed != allowed {
					t.Fatalf("%v %s: %+v", own, path, d)
				}
				if d := rules.ForID(other).Decide(path, fields); d.Allowed {
					t.Fatalf("%v %s: %+v", other, path, d)
				}
				if d := forOne.For(nil).Decide(path, fields); d.Allowed != allowed {
					t.Fatalf("%s: %+v", path, d)
				}
			}
			if d := intentions.ForID(consulCaller(i)).Decide(list, fields); !d.Allowed {
				t.Fatalf("%d: %+v", i, d)
			}
		}
		if d := intentions.ForID(consulCaller(n)).Decide(list, fields); d.Allowed {
			t.Errorf("%+v", d)
		}
	}
}

func TestNoRPCAllocates(t *testing.T) { // not parallel: allocations are counted
	fields := request(list, "x-team: a", "x-team: b")
	header := from("web", false, registry.IntentionPermission{Allow: true, Headers: []registry.IntentionHeader{{Name: "x-team", Regex: "a|b"}, {Name: "x-team", Contains: "B", IgnoreCase: true}}})
	conditions := New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{header}}, env)
	for _, n := range sizes {
		rules, forOne, intentions := many(t, n), manyFor(t, n), manyIntentions(n)
		for name, c := range map[string]*Caller{
			"headers": conditions.ForID(id(consulWeb)),
			"rules":   rules.ForID(id("spiffe://example.org/svc/caller-0")), "rules for one": forOne.For(nil), "intentions": intentions.ForID(consulCaller(0)),
		} {
			for _, path := range []string{list, "/shop.Orders/M0", "/shop.Orders/%"} {
				if got := testing.AllocsPerRun(10, func() { c.Decide(path, fields) }); got > 0 {
					t.Errorf("%d %s: %v allocations", n, name, got)
				}
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	fields := request(list, "x-team: a")
	for _, n := range sizes {
		rules, forOne, intentions := many(b, n), manyFor(b, n), manyIntentions(n)
		for _, c := range []struct {
			name   string
			caller *Caller
			path   string
			fields []hpack.Field
		}{
			{"rules", rules.ForID(id("spiffe://example.org/svc/caller-0")), "/shop.Orders/M0", fields},
			{"rules-for-one", forOne.For(nil), "/shop.S8/Any", fields},
			{"intentions", intentions.ForID(consulCaller(n - 1)), list, fields},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if d := c.caller.Decide(c.path, c.fields); !d.Allowed {
						b.Fatal(d)
					}
				}
			})
		}
	}
}

// BenchmarkFor is for each caller that is new to a policy.
func BenchmarkFor(b *testing.B) {
	for _, n := range sizes {
		for name, p := range map[string]*Policy{"rules": many(b, n), "intentions": manyIntentions(n)} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					p.caller(id("spiffe://example.org/svc/caller-0"))
				}
			})
		}
	}
}
