package explain

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is one of these policies and instances.
func world(t *testing.T, policies string, endpoints ...registry.Endpoint) *World {
	t.Helper()
	mesh, err := configyaml.ParseMesh("m", []byte("policies:\n"+policies))
	if err != nil {
		t.Fatal(err)
	}
	set, refusals := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
	if len(refusals) > 0 {
		t.Fatal(refusals)
	}
	return &World{
		Set: set, Now: time.Now(),
		Find: func(authority, _ string) (string, string) { return authority, "authority" },
		Cluster: func(_ context.Context, service string) (*upstream.Cluster, string, func()) {
			c, done := Unused(service, endpoints, set, balance.RoundRobin, nil)
			return c, "", done
		},
	}
}

const split = `
- {name: parts, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}
- name: r
  service: greeter
  route:
    rules:
    - {match: {fraction: 500}, to: {subset: v2}}
    - split: {destinations: [{weight: 8000, subset: v1}, {weight: 2000, subset: v2}]}
`

// For any number that decides, it says what is decided of a real RPC with that number.
func TestItIsWhatIsDecided(t *testing.T) {
	t.Parallel()
	w := world(t, split)
	w.Cluster = nil
	route := w.Set.Service("greeter").Outbound("/a.B/C").Route
	rules := map[string]int{}
	for n := range uint64(500) {
		n *= 0x9e3779b97f4a7c15
		answer, err := Explain(t.Context(), w, &adminv1.ExplainRequest{Authority: "greeter", Method: "a.B/C", Random: new(n)})
		if err != nil {
			t.Fatal(err)
		}
		want := route.Decide(&policy.RPC{Path: "/a.B/C", Random: func() uint64 { return n }}, "greeter", nil)
		got := answer.GetOutcomes()[0]
		if len(answer.GetOutcomes()) != 1 || got.GetRule() != want.Rule.Label || got.GetSubset() != want.Subset || (got.GetGroup() != "") != (want.Group != nil) {
			t.Fatalf("%d: %v, want %+v", n, got, want)
		}
		rules[got.GetRule()+got.GetSubset()]++
	}
	if len(rules) != 3 {
		t.Errorf("not all came: %v", rules)
	}
	answer, err := Explain(t.Context(), w, &adminv1.ExplainRequest{Authority: "greeter", Method: "a.B/C"})
	if err != nil {
		t.Fatal(err)
	}
	var shares []string
	for _, o := range answer.GetOutcomes() {
		shares = append(shares, fmt.Sprintf("%s %s %.3f", o.GetRule(), o.GetSubset(), o.GetShare()))
	}
	if want := []string{"r/1 v2 0.050", "r/2 v1 0.760", "r/2 v2 0.190"}; !slices.Equal(shares, want) {
		t.Errorf("%q, want %q", shares, want)
	}
}

// Of very many rules and instances people are shown a few, among them those that matter.
func TestManyAreCut(t *testing.T) {
	t.Parallel()
	var policies strings.Builder
	policies.WriteString("- {name: hash, service: greeter, load_balancing: {policy: ring_hash, hash: {metadata: user}}}\n- name: r\n  service: greeter\n  route:\n    rules:\n")
	for i := range 200 {
		fmt.Fprintf(&policies, "    - {match: {metadata: [{key: k, exact: \"%d\"}]}, authority: a}\n", i)
	}
	var endpoints []registry.Endpoint
	for i := range 1500 {
		address := fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
		endpoints = append(endpoints, registry.Endpoint{ID: address, Address: address, Weight: 1})
	}
	answer, err := Explain(t.Context(), world(t, policies.String(), endpoints...), &adminv1.ExplainRequest{
		Authority: "greeter", Method: "a.B/C", Metadata: []*adminv1.Metadata{{Key: "k", Value: "150"}, {Key: "user", Value: "42"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	candidates := answer.GetOutcomes()[0].GetCandidates()
	if len(candidates) != maxCandidates || !candidates[0].GetWould() || len(answer.GetRules()) != 200 || len(answer.GetNotes()) != 1 {
		t.Errorf("%d candidates, the first %v; %d rules; %q", len(candidates), candidates[0], len(answer.GetRules()), answer.GetNotes())
	}
	text := Text(io.Discard, answer)
	for _, want := range []string{"r/151  decides", "and 149 more that do not match", "and 950 more", "*  10.0."} {
		if !strings.Contains(text, want) {
			t.Errorf("without %q:\n%s", want, text)
		}
	}
	if lines := strings.Count(text, "\n"); lines > 150 {
		t.Errorf("%d lines", lines)
	}
}

func TestCheckMetadata(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, value, says string }{
		{"user-id", "42", ""},
		{"a-bin", "AQI=", ""},
		{"a-bin", "AQI", ""},
		{"a-bin", "*", "is not base64"},
		{"User", "1", `write "user"`},
		{"", "1", "is no metadata key"},
		{":path", "1", "is no metadata key"},
		{"a b", "1", "is no metadata key"},
		{"a", "ü", "printable ASCII"},
		{"a", "1\n2", "printable ASCII"},
	} {
		err := CheckMetadata(c.key, c.value)
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q %q: %v, want %q", c.key, c.value, err, c.says)
		}
	}
}

func TestWrongRequests(t *testing.T) {
	t.Parallel()
	for _, request := range []*adminv1.ExplainRequest{
		{Method: "Hello"},
		{Method: "a.B/C", Metadata: []*adminv1.Metadata{{Key: "grpc-timeout", Value: "soon"}}},
		{Method: "a.B/C", Metadata: []*adminv1.Metadata{{Key: "A", Value: "1"}}},
	} {
		if answer, err := Explain(t.Context(), world(t, split), request); err == nil {
			t.Errorf("%v: %v", request, answer)
		}
	}
}
