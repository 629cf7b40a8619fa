package sidecar

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// said is what a source says of policies that are each good by themselves.
func said(t *testing.T, where, yaml string, refused ...registry.RefusedPolicy) *registry.Policies {
	t.Helper()
	mesh, err := configyaml.ParseMesh(where, []byte("policies:\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	in := configyaml.NewLocator(where, []byte("policies:\n"+yaml))
	p := &registry.Policies{List: mesh.GetPolicies(), Refused: refused, Where: where, Places: map[string]string{}}
	index := map[string]int{}
	for i, one := range mesh.GetPolicies() {
		p.Places[one.GetName()], index[one.GetName()] = in.Places()[i], i
	}
	p.Locate = func(name, field string) string { return in.Policy(index[name], field) }
	return p
}

func stand(p *adminv1.Policies) (out []string) {
	for _, one := range p.GetList() {
		out = append(out, strings.Join(slices.Concat([]string{
			one.GetName(), strings.TrimPrefix(one.GetState().String(), "POLICY_STATE_"), one.GetKind(), one.GetService(), one.GetWhere(),
		}, one.GetProblems()), " | "))
	}
	return out
}

// Policies of two sources are one set; each says how it stands, and since when.
func TestHowPoliciesStand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, files := memory.New(), memory.New()
		mesh.ReplacePolicies(said(t, "m", "- {name: a, service: g, timeout: {max: 1s}}\n"))
		files.ReplacePolicies(said(t, "f", "- {name: b, service: g, methods: [x.Y], timeout: {max: 2s}}\n"))
		p := newPolicies(policy.Env{}, "greeter", slog.New(slog.DiscardHandler))
		p.watch([]registry.PolicySource{mesh, files})
		defer p.close()
		var told *policy.Set
		p.apply(func(set *policy.Set) { told = set })
		begin := time.Now()
		if told.Len() != 2 || told.Version() == "" || p.Policies().GetVersion() != told.Version() || !p.Policies().GetSince().AsTime().Equal(begin) {
			t.Fatalf("%v %v", told.Len(), p.Policies())
		}
		if got, want := stand(p.Policies()), []string{"a | IN_FORCE | timeout | g | m:2:3", "b | IN_FORCE | timeout | g | f:2:3"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}

		// One becomes wrong, and two are new: one as wrong as can be, one of a name that
		// is taken.
		time.Sleep(time.Minute)
		files.ReplacePolicies(said(t, "f", "- {name: b, service: g, methods: [x.Y], timeout: {default: 3s, max: 2s}}\n- {name: a, service: h, timeout: {max: 1s}}\n",
			registry.RefusedPolicy{Policy: "c", Problem: "f:9:9: c is wrong"}))
		synctest.Wait()
		want := []string{
			"a | KEPT | timeout | g | m:2:3 | f:3:10: policies[1].name: there is one of this name in m already: give it another name",
			"b | KEPT | timeout | g | f:2:3 | f:2:60: policies[0].timeout.default: is 3s, but no RPC may have more than max, 2s",
			"c | REFUSED |  |  |  | f:9:9: c is wrong",
		}
		if got := stand(p.Policies()); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if !p.Policies().GetSince().AsTime().Equal(begin) || !p.Policies().GetList()[1].GetSince().AsTime().Equal(begin.Add(time.Minute)) {
			t.Errorf("%v", p.Policies())
		}
		if b := told.Service("g").Outbound("/x.Y/Z").Timeout; b.Max != 2*time.Second || b.Default != 0 {
			t.Errorf("in force is %+v", b)
		}
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(policyMetrics{p, 10})
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP pillion_policies Policies, by whether they are in force. One of which the last good version is in force while what is written is refused counts as both.
# TYPE pillion_policies gauge
pillion_policies{state="in_force"} 2
pillion_policies{state="refused"} 3
`), "pillion_policies"); err != nil {
			t.Error(err)
		}

		// Mended, all is as if nothing had been.
		time.Sleep(time.Minute)
		files.ReplacePolicies(said(t, "f", "- {name: b, service: g, methods: [x.Y], timeout: {max: 4s}}\n"))
		synctest.Wait()
		if got, want := stand(p.Policies()), []string{"a | IN_FORCE | timeout | g | m:2:3", "b | IN_FORCE | timeout | g | f:2:3"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if !p.Policies().GetSince().AsTime().Equal(begin.Add(2*time.Minute)) || told.Service("g").Outbound("/x.Y/Z").Timeout.Max != 4*time.Second {
			t.Errorf("%v", p.Policies())
		}
	})
}

// What policies count is exported, of no more methods than may be.
func TestPolicyMetrics(t *testing.T) {
	t.Parallel()
	source := memory.New()
	source.ReplacePolicies(said(t, "m", `
- {name: calm, service: g, circuit_breaker: {trip: {consecutive_failures: 1}, max_concurrent: 1}}
- {name: few, service: g, rate_limit: {limits: [{requests: 1000}, {requests: 1, interval: 3600s}]}}
- {name: harm, service: g, fault: {abort: {status: {code: ABORTED}, fraction: 10000}}}
`))
	p := newPolicies(policy.Env{}, "greeter", slog.New(slog.DiscardHandler))
	p.watch([]registry.PolicySource{source})
	defer p.close()
	set, _ := p.inForce()
	m := set.Service("g").Outbound("/a.B/C")
	now := time.Now()
	rpc := policy.RPC{Path: "/a.B/C", Random: func() uint64 { return 0 }}
	for range 3 {
		m.RateLimit.Take(now, &rpc)
	}
	fault, _ := m.Fault.Decide(&rpc)
	m.Fault.Begin(fault)
	m.Fault.End()
	var one, full, broken, other breaker.Place
	a := m.Breaker.Circuit("g", "/a.B/C")
	a.Enter(now, &one, nil, 1)
	a.Enter(now, &full, nil, 2)
	one.Leave(now, breaker.Failure, 0).Tell()
	a.Enter(now, &broken, nil, 3)
	for _, path := range []string{"/a.B/D", "/a.B/E"} {
		m.Breaker.Circuit("g", path).Enter(now, &other, nil, 4)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(policyMetrics{p, 1})
	want := `
# HELP pillion_circuit_breaker_rejected_total RPCs that were not sent, because the circuit breaker was open or because as many were under way as may be.
# TYPE pillion_circuit_breaker_rejected_total counter
pillion_circuit_breaker_rejected_total{method="a.B/C",policy="calm",reason="full",service="g"} 1
pillion_circuit_breaker_rejected_total{method="a.B/C",policy="calm",reason="open",service="g"} 1
pillion_circuit_breaker_rejected_total{method="other",policy="calm",reason="full",service="other"} 0
pillion_circuit_breaker_rejected_total{method="other",policy="calm",reason="open",service="other"} 0
# HELP pillion_circuit_breaker_rpcs RPCs under a limit of a circuit breaker policy now: under way, or waiting for one of those to end.
# TYPE pillion_circuit_breaker_rpcs gauge
pillion_circuit_breaker_rpcs{method="a.B/C",policy="calm",service="g",state="under_way"} 0
pillion_circuit_breaker_rpcs{method="a.B/C",policy="calm",service="g",state="waiting"} 0
pillion_circuit_breaker_rpcs{method="other",policy="calm",service="other",state="under_way"} 2
pillion_circuit_breaker_rpcs{method="other",policy="calm",service="other",state="waiting"} 0
# HELP pillion_circuit_breaker_state State of the circuit breaker of a method: 0 closed, 1 half-open, 2 open.
# TYPE pillion_circuit_breaker_state gauge
pillion_circuit_breaker_state{method="a.B/C",policy="calm",service="g"} 2
pillion_circuit_breaker_state{method="other",policy="calm",service="other"} 0
# HELP pillion_faults_injected_total RPCs that a fault policy made wait or fail.
# TYPE pillion_faults_injected_total counter
pillion_faults_injected_total{kind="abort",policy="harm"} 1
pillion_faults_injected_total{kind="delay",policy="harm"} 0
# HELP pillion_rate_limited_total RPCs that a rate limit refused, by the limit's number in its policy, from 1 on.
# TYPE pillion_rate_limited_total counter
pillion_rate_limited_total{limit="1",policy="few"} 0
pillion_rate_limited_total{limit="2",policy="few"} 2
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want),
		"pillion_circuit_breaker_rejected_total", "pillion_circuit_breaker_rpcs", "pillion_circuit_breaker_state",
		"pillion_faults_injected_total", "pillion_rate_limited_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(metrics); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
