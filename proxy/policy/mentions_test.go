package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

func TestMentions(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- name: route
  service: greeter
  route:
    rules:
    - {match: {metadata: [{key: in-route, present: true}, {key: authorization, present: true}, {key: cookie, present: true}], cookies: [{key: route-cookie, present: true}]}, to: {}}
    - {match: {metadata: [{key: in-route, exact: x}]}, split: {sticky: {key: {metadata: sticky}}, destinations: [{weight: 10000, group: g}]}}
- name: split
  service: "*"
  split:
    match: {metadata: [{key: in-split, present: true}]}
    ranges: [{key: {cookie: range}, seed: s, start: 0, end: 10}, {key: {caller: true}, seed: s, start: 0, end: 10}]
    split: {allow_force: true, sticky: {key: {metadata: split-sticky}}, destinations: [{weight: 10000, group: g}]}
- {name: limit, service: greeter, inbound: true, rate_limit: {limits: [{requests: 1, key: {metadata: limit-key}, match: {metadata: [{key: limit-match, present: true}]}}]}}
- {name: fault, service: greeter, fault: {match: {cookies: [{key: fault, present: true}]}, abort: {status: {code: ABORTED}, fraction: 1}}}
- {name: lb, service: greeter, load_balancing: {policy: maglev, hash: {cookie: hash}}}
- {name: access, service: greeter, access: {rules: [{action: allow, metadata: [{key: in-access, present: true}]}]}}
`)
	m := set.Mentions()
	if want := []string{"in-access", "in-route", "in-split", "limit-key", "limit-match", "pillion-force", "split-sticky", "sticky"}; !slices.Equal(m.Metadata(), want) {
		t.Errorf("metadata %q, want %q", m.Metadata(), want)
	}
	if want := []string{"fault", "hash", "range", "route-cookie"}; !slices.Equal(m.Cookies(), want) {
		t.Errorf("cookies %q, want %q", m.Cookies(), want)
	}
	if want := []string{"authorization", "cookie"}; !slices.Equal(m.Withheld(), want) {
		t.Errorf("credentials %q, want %q", m.Withheld(), want)
	}
	var none *Mentions
	none.Fields(fields("a: b"), func(hpack.Field) bool { t.Error("something is mentioned"); return true })
	if (*Set)(nil).Mentions().Metadata() != nil || none.Metadata() != nil || none.Cookies() != nil || none.Withheld() != nil || none.Has(fields("a: b")[0]) {
		t.Error("something is mentioned")
	}
}

// With what is mentioned of an RPC alone, policies decide as with all of it.
func TestWhatIsMentionedIsAllThatPoliciesLookAt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policies := append(drawSplitPolicies(t), &configv1.Policy{
			Name: "route", Service: "greeter", Kind: &configv1.Policy_Route{Route: drawRoute(t)},
		})
		set, refused := Compile(policies, nil, Env{})
		if len(refused) > 0 {
			t.Skip(refused)
		}
		rpc := drawRPC(t)
		rpc.Random = func() uint64 { return 1 << 63 }
		kept := *rpc
		kept.Fields = nil
		m := set.Mentions()
		m.Fields(rpc.Fields, func(f hpack.Field) bool {
			if !m.Has(f) {
				t.Fatalf("%v is among what is mentioned, and is not mentioned", f)
			}
			kept.Fields = append(kept.Fields, f)
			return true
		})
		decide := func(rpc *RPC) string {
			view := set.Service("greeter")
			d := view.Outbound(rpc.Path).Route.Decide(rpc, "greeter", nil)
			chosen := set.Service(d.Service).Splits(rpc.Path).Decide(rpc, &d, nil, nil)
			text := fmt.Sprintf("%p %s", d.Rule, groupsOf(d, chosen))
			for _, c := range chosen {
				text += fmt.Sprint(" ", c.Unit)
			}
			return text
		}
		if got, want := decide(&kept), decide(rpc); got != want {
			t.Fatalf("by %v it is %s, by %v %s", kept.Fields, got, rpc.Fields, want)
		}
	})
}

func TestMentionedFieldsOfManyCookies(t *testing.T) {
	t.Parallel()
	m := compiled(t, `- {name: lb, service: greeter, load_balancing: {policy: maglev, hash: {cookie: hash}}}`).Mentions()
	asked := 0
	m.Fields(fields("cookie: "+strings.Repeat("hash=1; ", 100), "cookie: hash=2"), func(f hpack.Field) bool {
		asked++
		return asked < 5
	})
	if asked != 5 {
		t.Errorf("asked %d times", asked)
	}
}
