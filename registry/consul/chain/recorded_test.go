package chain

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// The chains in testdata are what a real Consul compiled of the entries of
// interop/entries, which records them where PILLION_RECORD names a folder.

func recorded(tb testing.TB, name string) *Compiled {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	c, err := Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// compiled compiles what a chain comes to; none of it may be refused.
func compiled(tb testing.TB, r *Result) *policy.Set {
	tb.Helper()
	set, refusals := policy.Compile(r.Policies, nil, policy.Env{})
	for _, refusal := range refusals {
		tb.Errorf("the sidecar refuses it: %v", refusal)
	}
	return set
}

// where says where an RPC goes: "service/subset", or how it is answered.
func where(set *policy.Set, service, path string, head ...string) string {
	rpc := &policy.RPC{Path: path, Random: rand.Uint64}
	for _, text := range head {
		key, value, _ := strings.Cut(text, ": ")
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: key, Value: value})
	}
	d := policy.Decision{Service: service}
	if m := set.Service(service).Outbound(path); m.Routes() {
		d = m.Decide(rpc, service)
	}
	if d.Rule != nil && d.Rule.Status != nil {
		return d.Rule.Status.Code.String()
	}
	return d.Service + "/" + d.Subset
}

func TestRecordedChains(t *testing.T) {
	t.Parallel()
	t.Cleanup(configyaml.HoldRules())
	const hello, bye = "/helloworld.Greeter/SayHello", "/helloworld.Greeter/SayBye"
	type to struct {
		path, head, want string
	}
	for _, c := range []struct {
		name     string
		policies string // their names, without "consul."
		rpcs     []to
		subsets  map[string]string // the default one, by service
		failover map[string]string // by service and subset
		refused  []string          // what lines hold
		notes    []string
	}{
		{name: "plain", rpcs: []to{{hello, "", "plain/"}}},
		{name: "redirect", policies: "redirect-to.subsets redirect.route", rpcs: []to{{hello, "", "redirect-to/v2"}}},
		{name: "default-subset", policies: "default-subset.subsets", rpcs: []to{{hello, "", "default-subset/"}}, subsets: map[string]string{"default-subset": "v2"}},
		{name: "only-passing", policies: "only-passing.subsets", subsets: map[string]string{"only-passing": "well"}},
		{name: "failover-service", policies: "failover-service.load_balancing", failover: map[string]string{"failover-service/": "failover-standby/"}},
		{name: "failover-subset", policies: "failover-subset.subsets", failover: map[string]string{"failover-subset/": "failover-subset/v2", "failover-subset/v1": "failover-subset/v2", "failover-subset/v2": ""}},
		{name: "failover-none", policies: "failover-none.route failover-none.subsets", failover: map[string]string{"failover-none/v1": "", "failover-none/v2": "failover-standby/"}, rpcs: []to{{hello, "y-to: v2", "failover-none/v2"}, {hello, "", "failover-none/"}}},
		{
			name:     "failover-datacenter",
			policies: "failover-datacenter.dc2.subsets failover-datacenter.dc3.subsets failover-datacenter.route failover-datacenter.subsets",
			failover: map[string]string{"failover-datacenter/v2": "failover-datacenter.dc2/v2 failover-datacenter.dc3/v2", "failover-datacenter/": "failover-datacenter.dc2/v1 failover-datacenter.dc3/v1"},
		},
		{name: "redirect-datacenter", policies: "redirect-datacenter.route", rpcs: []to{{hello, "", "far.dc2/"}}},
		{
			name: "gateway", policies: "gateway.load_balancing", failover: map[string]string{"gateway/": "failover-standby/"},
			refused: []string{`service "gateway" is in datacentre "dc2" behind a mesh gateway (mode "local")`, `service "gateway" is of the peer "cluster-02"`},
		},
		{name: "tcp", policies: "tcp.subsets", subsets: map[string]string{"tcp": "v1"}, notes: []string{"its protocol is tcp there"}},
		{name: "split", policies: "split.route split.subsets"},
		{name: "split-answers", policies: "split-answers.route split-answers.subsets"},
		{name: "split-nested", policies: "split-inner.subsets split-nested.route"},
		{name: "paths", policies: "paths.route paths.subsets", rpcs: []to{
			{hello, "", "paths/"}, {bye, "", "paths/v2"}, {bye + "x", "", "paths/"}, {"/other.Service/Mx", "", "paths/v2"}, {"/third.Service/B", "", "paths/v2"},
			{"/third.Service/BB", "", "paths/"}, {"/Fourth.Service/X", "", "paths/v2"},
		}},
		{name: "headers", policies: "headers.route headers.subsets", rpcs: []to{
			{hello, "", "headers/"}, {hello, "y-exact: a", "headers/v2"}, {hello, "y-regex: rr", "headers/v2"}, {bye, "", "headers/v2"},
			{"/other.Service/Method", "", "headers/"}, {"/other.Service/Method", "y-other: b", "headers/v2"}, {"/other.Service/Method", "y-other: a", "headers/"},
		}},
		{
			name: "http-only", policies: "http-only.route http-only.subsets", rpcs: []to{{hello, "", "http-only/"}, {bye, "", "http-only/v2"}},
			notes: []string{"query parameter", "not POST"},
		},
		{name: "changes", policies: "changes.route changes.subsets", notes: []string{"a route and a split change the same request headers"}},
		{name: "retries", policies: "retries.route", notes: []string{"retry_on_status_codes are those of HTTP", "nothing of what is said there of retries"}},
		{name: "timeouts", policies: "timeouts.route"},
		{name: "timeout-resolver", policies: "timeout-resolver.timeout"},
		{name: "hash-header", policies: "hash-header.load_balancing"},
		{name: "hash-cookie", policies: "hash-cookie.load_balancing"},
		{name: "least-request", policies: "least-request.load_balancing"},
		{name: "hash-many", policies: "hash-many.load_balancing", refused: []string{"hash_policies[2]: one thing is hashed"}, notes: []string{"no RPC of gRPC has that (query_parameter", "a cookie is made there"}},
		{
			name: "odd-changes", policies: "odd-changes.route",
			refused: []string{`request_headers.set: "grpc-timeout" belongs to`, `"x-ip", "%DOWNSTREAM_REMOTE_ADDRESS%", has a variable`, `response_headers.remove: "content-type" belongs to`, "num_retries is 30"},
			notes:   []string{`retry_on "retriable-4xx"`},
		},
		{name: "rewrite", policies: "rewrite.route", rpcs: []to{{hello, "", "rewrite/"}, {"/old.Service/M", "", "Unimplemented"}}, refused: []string{"prefix_rewrite"}},
	} {
		r := recorded(t, c.name).Policies(c.name, "", nil)
		var names []string
		for _, p := range r.Policies {
			names = append(names, strings.TrimPrefix(p.GetName(), PolicyPrefix))
			if err := configyaml.CheckPolicy(p); err != nil {
				t.Errorf("%s: %v: %v", c.name, p, err)
			}
		}
		if got := strings.Join(names, " "); got != c.policies {
			t.Errorf("%s: policies are %s, want %s", c.name, got, c.policies)
		}
		set := compiled(t, r)
		for _, rpc := range c.rpcs {
			var head []string
			if rpc.head != "" {
				head = []string{rpc.head}
			}
			if got := where(set, c.name, rpc.path, head...); got != rpc.want {
				t.Errorf("%s: %s %q goes to %s, want %s", c.name, rpc.path, rpc.head, got, rpc.want)
			}
		}
		for service, want := range c.subsets {
			if got := set.Service(service).Cluster().DefaultSubset; got != want {
				t.Errorf("%s: the default subset of %s is %q, want %q", c.name, service, got, want)
			}
		}
		for of, want := range c.failover {
			service, subset, _ := strings.Cut(of, "/")
			var got []string
			for _, target := range set.Service(service).Failover(subset) {
				got = append(got, target.Service+"/"+target.Subset)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %s fails over to %q, want %q", c.name, of, got, want)
			}
		}
		var refused []string
		for _, one := range r.Refused {
			refused = append(refused, one.Problem)
		}
		holdAll(t, c.name+": refused", refused, c.refused)
		holdAll(t, c.name+": notes", r.Notes, c.notes)
	}
}

// holdAll says whether each line holds one of the texts, and none is missing.
func holdAll(t *testing.T, what string, lines, texts []string) {
	t.Helper()
	for _, line := range lines {
		if strings.ContainsAny(line, "\n\r") || !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			t.Errorf("%s: %q, want %q alone", what, line, texts)
		}
	}
	for _, text := range texts {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, text) }) {
			t.Errorf("%s: %q, want %q too", what, lines, text)
		}
	}
}

func policyOf(t *testing.T, r *Result, name string) *configv1.Policy {
	t.Helper()
	for _, p := range r.Policies {
		if p.GetName() == PolicyPrefix+name {
			return p
		}
	}
	t.Fatalf("there is no policy %q", name)
	return nil
}

func TestRecordedSplits(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"split":        "v1 9000, v2 1000",
		"split-nested": "v1 4000, v2 1000, split-third 5000",
	} {
		rules := policyOf(t, recorded(t, name).Policies(name, "", nil), name+".route").GetRoute().GetRules()
		var got []string
		for _, d := range rules[0].GetSplit().GetDestinations() {
			got = append(got, fmt.Sprintf("%s %d", d.GetGroup(), d.GetWeight()))
		}
		if len(rules) != 1 || strings.Join(got, ", ") != want {
			t.Errorf("%s: %d rules, %q, want %s", name, len(rules), got, want)
		}
	}
	// Legs that change answers are rules of their own, each for a part of what is left.
	rules := policyOf(t, recorded(t, "split-answers").Policies("split-answers", "", nil), "split-answers.route").GetRoute().GetRules()
	left, shares := 1.0, map[string]float64{}
	for _, r := range rules {
		part := 1.0
		if f := r.GetMatch().GetFraction(); r.GetMatch() != nil {
			part = float64(f) / 10000
		}
		shares[r.GetResponse().GetAdd()["y-from"]] = left * part
		left *= 1 - part
	}
	for leg, want := range map[string]float64{"first": 0.3333, "second": 0.3333, "third": 0.3334} {
		if got := shares[leg]; got < want-0.0001 || got > want+0.0001 {
			t.Errorf("leg %s has %.5f of the RPCs, want %.4f", leg, got, want)
		}
	}
}

func TestRecordedLimits(t *testing.T) {
	t.Parallel()
	rules := policyOf(t, recorded(t, "timeouts").Policies("timeouts", "", nil), "timeouts.route").GetRoute().GetRules()
	if got := rules[0].GetTimeouts(); got.GetMax().AsDuration() != 400*time.Millisecond || got.GetIdle() != nil {
		t.Errorf("timeouts of the first route: %v", got)
	}
	if got := rules[1].GetTimeouts(); got.GetMax().AsDuration() != 5*time.Second || got.GetIdle().AsDuration() != time.Minute {
		t.Errorf("timeouts of the second route: %v", got)
	}
	if got := policyOf(t, recorded(t, "timeout-resolver").Policies("timeout-resolver", "", nil), "timeout-resolver.timeout").GetTimeout(); got.GetMax().AsDuration() != 400*time.Millisecond {
		t.Errorf("timeout of the resolver: %v", got)
	}
	rules = policyOf(t, recorded(t, "retries").Policies("retries", "", nil), "retries.route").GetRoute().GetRules()
	for i, want := range []string{"4 [UNAVAILABLE RESOURCE_EXHAUSTED] []", "2 [UNAVAILABLE] []", "3 [CANCELLED INTERNAL DEADLINE_EXCEEDED] []"} {
		r := rules[i].GetRetry()
		if got := fmt.Sprint(r.GetMaxAttempts(), r.GetRetryableStatusCodes(), r.GetConditions()); got != want {
			t.Errorf("retries of route %d: %s, want %s", i, got, want)
		}
	}
	if rules[3].GetRetry() != nil {
		t.Errorf("statuses of HTTP have RPCs sent again: %v", rules[3].GetRetry())
	}
	odd := policyOf(t, recorded(t, "odd-changes").Policies("odd-changes", "", nil), "odd-changes.route").GetRoute().GetRules()[0]
	if got := fmt.Sprint(odd.GetRetry().GetMaxAttempts(), odd.GetRetry().GetConditions(), odd.GetRequest().GetSet(), odd.GetResponse()); got != "10 [connect-failure reset-before-headers] map[x-fine:1] <nil>" {
		t.Errorf("odd-changes: %s", got)
	}
	if got := policyOf(t, recorded(t, "gateway").Policies("gateway", "", nil), "gateway.load_balancing").GetLoadBalancing().GetConnectTimeout().AsDuration(); got != 9*time.Second {
		t.Errorf("connecting to gateway may take %v", got)
	}
	many := policyOf(t, recorded(t, "hash-many").Policies("hash-many", "", nil), "hash-many.load_balancing").GetLoadBalancing()
	if many.GetPolicy() != "ring_hash" || !many.GetHash().GetCaller() || many.GetRingSize() != 16 {
		t.Errorf("hash-many: %v", many)
	}
}

func TestRecordedFilters(t *testing.T) {
	t.Parallel()
	r := recorded(t, "failover-datacenter").Policies("failover-datacenter", "", nil)
	if got := slices.Sorted(maps.Keys(r.Filters)); !slices.Equal(got, []string{"failover-datacenter", "failover-datacenter.dc2", "failover-datacenter.dc3"}) {
		t.Errorf("filters are of %q", got)
	}
	if f := r.Filters["failover-datacenter.dc2"]["v1"]; f != (Filter{Filter: "Service.Meta.version == v1"}) {
		t.Errorf("%+v", f)
	}
	if f := recorded(t, "only-passing").Policies("only-passing", "", nil).Filters["only-passing"]["well"]; f != (Filter{OnlyPassing: true}) {
		t.Errorf("%+v", f)
	}
}

// A service that is asked for in a datacentre, and where it leads, is called by that.
func TestAChainOfAnotherDatacentre(t *testing.T) {
	t.Parallel()
	r := recorded(t, "redirect").Policies("redirect.dc1", ".", nil)
	if got := where(compiled(t, r), "redirect.dc1", "/a.B/C"); got != "redirect-to.dc1/v2" {
		t.Errorf("it goes to %s", got)
	}
	if r.Filters["redirect-to.dc1"] == nil {
		t.Errorf("%+v", r.Filters)
	}
	r = recorded(t, "default-subset").Policies("default-subset.dc1", ".", nil)
	if p := policyOf(t, r, "default-subset.dc1.subsets"); p.GetSubsets().GetDefault() != "v2" {
		t.Errorf("%v", p)
	}
}
