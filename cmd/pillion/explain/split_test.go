package explain

import (
	"fmt"
	"math"
	"strings"
	"testing"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

const splitPolicies = `
- {name: parts, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}
- name: r
  service: front
  route:
    rules:
    - {match: {fraction: 5000}, request: {add: {x-r: "1"}}, to: {service: greeter}}
    - {request: {add: {x-r: "1"}}, split: {group_key: x-half, destinations: [{weight: 5000, group: here}, {weight: 5000, group: there, service: greeter}]}}
- {name: e, service: greeter, split: {order: 1, match: {fraction: 2000, metadata: [{key: user, present: true}]}, split: {destinations: [{weight: 5000, group: blue}, {weight: 5000, group: red}]}}}
- {name: c, service: greeter, split: {order: 2, split: {sticky: {key: {metadata: user}}, destinations: [{weight: 9000, group: stable, subset: v1}, {weight: 1000, group: canary, subset: v2}]}}}
`

// For any number that decides, it says what split policies decide of a real RPC with that
// number; without one, all that may come, as often as it does.
func TestSplitPoliciesAreExplained(t *testing.T) {
	t.Parallel()
	w := world(t, splitPolicies)
	w.Cluster = nil
	ask := func(service, user string, random *uint64) *adminv1.ExplainResponse {
		t.Helper()
		request := &adminv1.ExplainRequest{Authority: service, Method: "a.B/C", Random: random}
		if user != "" {
			request.Metadata = []*adminv1.Metadata{{Key: "user", Value: user}}
		}
		answer, err := Explain(t.Context(), w, request)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	const n = 2000
	for _, service := range []string{"greeter", "front"} {
		for _, user := range []string{"", "alice"} {
			share, sum := map[string]float64{}, 0.0
			for _, o := range ask(service, user, nil).GetOutcomes() {
				share[o.GetService()+"/"+o.GetSubset()+" "+o.GetGroup()] += o.GetShare()
				sum += o.GetShare()
			}
			if math.Abs(sum-1) > 1e-9 || len(share) < 2 {
				t.Errorf("%s, user %q: %v", service, user, share)
			}
			came := map[string]float64{}
			for i := range uint64(n) {
				number := (i + 1) * 0x9e3779b97f4a7c15
				o := ask(service, user, &number).GetOutcomes()[0]
				came[o.GetService()+"/"+o.GetSubset()+" "+o.GetGroup()] += 1.0 / n
				if number%100 == 0 {
					continue
				}
				for _, s := range o.GetSplits() {
					if s.GetHolds() != strings.Contains(","+o.GetGroup()+",", ","+s.GetGroup()+",") || s.GetWhy() == "" {
						t.Fatalf("groups %s, and of a policy %v", o.GetGroup(), s)
					}
				}
			}
			for what, part := range came {
				if math.Abs(part-share[what]) > 5*math.Sqrt(share[what]*(1-share[what])/n)+1.0/n {
					t.Errorf("%s, user %q: %s came in %v, want %v", service, user, what, part, share[what])
				}
			}
		}
	}
}

func user(name string) []hpack.Field { return []hpack.Field{{Name: "user", Value: name}} }

func TestTextOfSplitPolicies(t *testing.T) {
	t.Parallel()
	w := world(t, splitPolicies)
	w.Cluster = nil
	number := uint64(0)
	rpc := policy.RPC{Path: "/a.B/C", Random: func() uint64 { return number }}
	for d := (policy.Decision{}); d.Service != "greeter"; {
		number += 0x9e3779b97f4a7c15
		d = w.Set.Service("front").Outbound("/a.B/C").Route.Decide(&rpc, "front", nil)
		if in := w.Set.Service("greeter").Splits("/a.B/C").Decide(&policy.RPC{Random: rpc.Random, Fields: user("bob")}, &policy.Decision{Service: "greeter"}, nil, nil); len(in) != 1 {
			d.Service = "" // this number has it in the experiment
		}
	}
	answer, err := Explain(t.Context(), w, &adminv1.ExplainRequest{
		Authority: "front", Method: "a.B/C", Random: &number, Metadata: []*adminv1.Metadata{{Key: "user", Value: "bob"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := Text(new(strings.Builder), answer)
	for _, want := range []string{
		"goes to    greeter, subset v1, group stable",
		`split      e: does nothing: it is for 2000/10000 of such RPCs, and by chance this is none of them`,
		`split      c: stable, by metadata "user" "bob" with the seed "c": bucket `,
		"; it says where the RPC goes",
		"stable 90 %; canary 10 %; by user",
		"pillion-group: stable",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(fmt.Sprint(answer.GetOutcomes()[0].GetMetadata()), "x-r"); n != 1 {
		t.Errorf("what the rule adds is there %d times", n)
	}
}
