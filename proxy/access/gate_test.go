package access

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/registry"
)

func TestGate(t *testing.T) {
	t.Parallel()
	var g Gate
	peer := &identity.Peer{ID: id(web)}
	if g.Present(nil, peer) != nil || g.Policy() != nil {
		t.Error("something is in force")
	}
	first := policy(t, "orders", "allow from=web")
	g.Set(New(NewRules(first), nil, env))
	a := g.Present(nil, peer)
	if g.Present(a, peer) != a || a.Policy() != g.Policy() {
		t.Error("it is asked again what a caller may do")
	}
	if g.Present(nil, peer) != a {
		t.Error("a caller is not remembered")
	}
	if g.Present(nil, nil).Name() == a.Name() {
		t.Error("callers are mixed up")
	}
	// The policy changes: what the connection knows is looked up anew.
	g.Set(New(NewRules(policy(t, "orders", "deny from=web")), nil, env))
	b := g.Present(a, peer)
	if d := a.Decide(list, nil); !d.Allowed {
		t.Errorf("what was said before has changed: %+v", d)
	}
	if d := b.Decide(list, nil); d.Allowed {
		t.Errorf("what was taken away goes on: %+v", d)
	}
	g.Set(nil)
	if g.Present(b, peer) != nil {
		t.Error("what was taken out is in force")
	}
}

// counted returns what was counted, in the form "name refused audited".
func counted(g *Gate) (all []string) {
	for name, c := range g.Counts() {
		all = append(all, fmt.Sprint(name, " ", c.Refused.Load(), " ", c.Audited.Load()))
	}
	return all
}

// What a policy has counted goes on while it and others change.
func TestCountsAcrossChanges(t *testing.T) {
	t.Parallel()
	var g Gate
	call := func(from string) {
		d := g.Present(nil, &identity.Peer{ID: id(from)}).Decide(list, nil)
		d.Count()
	}
	orders, tried := policy(t, "orders", "allow from=web"), policy(t, "tried", "deny/audit from=web")
	g.Set(New(NewRules(orders, tried), nil, env))
	for range 2 {
		call(web)     // audited
		call(billing) // refused
	}
	if got := counted(&g); !slices.Equal(got, []string{"orders 2 0", "tried 0 2"}) {
		t.Errorf("%q", got)
	}
	in := &registry.Intentions{TrustDomain: "dc.consul", DefaultAllow: true, List: []registry.Intention{from("web", false)}}
	g.Set(New(NewRules(policy(t, "orders", "allow from=billing")), in, env))
	call(web)
	call(consulWeb)
	if got := counted(&g); !slices.Equal(got, []string{"orders 3 0", "consul-intentions 1 0"}) {
		t.Errorf("%q", got)
	}
	g.Set(nil)
	if got := counted(&g); got != nil {
		t.Errorf("%q", got)
	}
}

// Callers come and go while the policy changes.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var g Gate
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			var c *Caller
			for j := range 2 * maxKnown {
				c = g.Present(c, &identity.Peer{ID: id(fmt.Sprintf("spiffe://example.org/svc/a%d", (i*j)%(2*maxKnown)))})
				if c == nil {
					continue
				}
				d := c.Decide(list, nil)
				d.Count()
				if d.Allowed != (c.Policy().has[allowEnforced] && c.id == id("spiffe://example.org/svc/a0")) {
					t.Errorf("%v: %+v", c.id, d)
				}
				c = nil
			}
		})
	}
	all.Go(func() {
		for i := range 100 {
			rule := "allow from=a0"
			if i%2 == 1 {
				rule = "deny"
			}
			g.Set(New(NewRules(policy(t, "orders", rule)), nil, env))
		}
	})
	all.Wait()
	if p := g.Policy(); len(p.known) > maxKnown {
		t.Errorf("%d callers are remembered", len(p.known))
	}
}
