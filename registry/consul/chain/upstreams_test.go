package chain

import (
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func upstreams(t *testing.T, config string) *Upstreams {
	t.Helper()
	u, err := ParseUpstreams([]byte(`{"Kind": "service-defaults", "Name": "web", "UpstreamConfig": ` + config + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// defaultChain is the chain of a service for which there are no entries but its protocol.
func defaultChain(t *testing.T, protocol string) *Compiled {
	t.Helper()
	c, err := Parse([]byte(`{"Chain": {"ServiceName": "a", "Datacenter": "dc1", "Protocol": "` + protocol + `", "Default": true, "StartNode": "resolver:a",
		"Nodes": {` + nodeA + `}, "Targets": {` + targetA + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func policyNames(r *Result) string {
	var names []string
	for _, p := range r.Policies {
		names = append(names, strings.TrimPrefix(p.GetName(), PolicyPrefix))
	}
	return strings.Join(names, " ")
}

// What an override says goes before the defaults, each of its fields as a whole.
func TestWhatHoldsForAnUpstream(t *testing.T) {
	t.Parallel()
	const defaults = `"Defaults": {"ConnectTimeoutMs": 300, "Limits": {"MaxConnections": 3, "MaxConcurrentRequests": 7}}`
	for _, c := range []struct {
		name, config string
		limit        uint32        // 0: none
		connect      time.Duration // 0: none
		failures     uint32        // 0: no ejection
	}{
		{"nothing", `null`, 0, 0, 0},
		{"defaults", `{` + defaults + `}`, 7, 300 * time.Millisecond, 0},
		{"an override", `{` + defaults + `, "Overrides": [{"Name": "a", "Limits": {"MaxConcurrentRequests": 9}}]}`, 9, 300 * time.Millisecond, 0},
		{"limits as a whole", `{` + defaults + `, "Overrides": [{"Name": "a", "Limits": {"MaxConnections": 1}}]}`, 0, 300 * time.Millisecond, 0},
		{"beside limits", `{` + defaults + `, "Overrides": [{"Name": "a", "PassiveHealthCheck": {"MaxFailures": 3}, "ConnectTimeoutMs": 20}]}`, 7, 20 * time.Millisecond, 3},
		{"another service", `{` + defaults + `, "Overrides": [{"Name": "b", "ConnectTimeoutMs": 20}]}`, 7, 300 * time.Millisecond, 0},
		{"a peer's", `{` + defaults + `, "Overrides": [{"Name": "a", "Peer": "p", "ConnectTimeoutMs": 20}]}`, 7, 300 * time.Millisecond, 0},
		{"another namespace's", `{` + defaults + `, "Overrides": [{"Name": "a", "Namespace": "n", "ConnectTimeoutMs": 20}]}`, 7, 300 * time.Millisecond, 0},
		{"of two the last", `{"Overrides": [{"Name": "a", "ConnectTimeoutMs": 10}, {"Name": "a", "ConnectTimeoutMs": 20}]}`, 0, 20 * time.Millisecond, 0},
		{"longer than may be", `{"Defaults": {"ConnectTimeoutMs": 2000000000}}`, 0, maxConnectTimeout, 0},
		{"more than may be", `{"Defaults": {"Limits": {"MaxConcurrentRequests": 2000000000}}}`, maxConcurrent, 0, 0},
	} {
		for _, chain := range []*Compiled{defaultChain(t, "grpc"), written(t, "resolver:a", nodeA, targetA)} {
			r := chain.Policies("a", "", upstreams(t, c.config))
			_ = compiled(t, r)
			var limit, failures uint32
			var connect time.Duration
			for _, p := range r.Policies {
				if err := configyaml.CheckPolicy(p); err != nil || p.GetService() != "a" {
					t.Errorf("%s: %v: %v", c.name, p, err)
				}
				if b := p.GetCircuitBreaker(); b != nil {
					if limit = b.GetMaxConcurrent(); !b.GetTogether() || b.GetMaxPending() != 0 {
						t.Errorf("%s: %v", c.name, b)
					}
				}
				if e := p.GetOutlierEjection(); e != nil {
					failures = e.GetConsecutiveFailures()
				}
				if b := p.GetLoadBalancing(); b != nil {
					connect = b.GetConnectTimeout().AsDuration()
				}
			}
			if limit != c.limit || connect != c.connect || failures != c.failures || len(r.Refused) > 0 {
				t.Errorf("%s: limit %d, connect timeout %v, failures %d, want %d, %v, %d (%v)", c.name, limit, connect, failures, c.limit, c.connect, c.failures, r.Refused)
			}
		}
	}
}

// What Envoy has by default holds where health checks do not say otherwise.
func TestPassiveHealthChecks(t *testing.T) {
	t.Parallel()
	for check, want := range map[string]*configv1.OutlierEjectionPolicy{
		`{}`: {ConsecutiveFailures: new(uint32(5)), MaxEjectionPercent: new(uint32(10))},
		`{"MaxFailures": 3, "MaxEjectionPercent": 100, "EnforcingConsecutive5xx": 100}`: {ConsecutiveFailures: new(uint32(3)), MaxEjectionPercent: new(uint32(100))},
		`{"EnforcingConsecutive5xx": 0}`:                                                {ConsecutiveFailures: new(uint32(0)), MaxEjectionPercent: new(uint32(10))},
		`{"MaxFailures": 4, "EnforcingConsecutive5xx": 30}`:                             {ConsecutiveFailures: new(uint32(14)), MaxEjectionPercent: new(uint32(10))},
		`{"MaxFailures": 4000000000, "MaxEjectionPercent": 4000000000}`:                 {ConsecutiveFailures: new(uint32(100000)), MaxEjectionPercent: new(uint32(100))},
	} {
		r := defaultChain(t, "grpc").Policies("a", "", upstreams(t, `{"Defaults": {"PassiveHealthCheck": `+check+`}}`))
		e := policyOf(t, r, "a.outlier_ejection").GetOutlierEjection()
		if e.GetConsecutiveFailures() != want.GetConsecutiveFailures() || e.GetMaxEjectionPercent() != want.GetMaxEjectionPercent() || e.GetSuccessRate().GetStdevFactor() != 1900 ||
			e.GetInterval().AsDuration() != 10*time.Second || e.GetBaseEjectionTime().AsDuration() != 30*time.Second || len(e.GetFailureCodes()) != 6 {
			t.Errorf("%s: %v", check, e)
		}
		if noted := strings.Contains(strings.Join(r.Notes, "\n"), "enforcing_consecutive_5xx is 30"); noted != strings.Contains(check, "30}") {
			t.Errorf("%s: %q", check, r.Notes)
		}
	}
	// Consul writes times in nanoseconds, people in words.
	r := defaultChain(t, "grpc").Policies("a", "", upstreams(t, `{"Defaults": {"PassiveHealthCheck": {"Interval": 2000000000, "BaseEjectionTime": "20s"}}}`))
	if e := policyOf(t, r, "a.outlier_ejection").GetOutlierEjection(); e.GetInterval().AsDuration() != 2*time.Second || e.GetBaseEjectionTime().AsDuration() != 20*time.Second {
		t.Errorf("%v", e)
	}
}

// Limits are for wherever RPCs end, redirected or failed over; how long connecting may
// take is what the service there says, unless the caller does.
func TestUpstreamsWhereRPCsEnd(t *testing.T) {
	t.Parallel()
	chain := func() *Compiled {
		return written(t, "resolver:b", `"resolver:b": {"Type": "resolver", "Resolver": {"Target": "b", "Failover": {"Targets": ["c", "p"]}}}`,
			`"b": {"Service": "b", "Datacenter": "dc1", "ConnectTimeout": "2s"}, "c": {"Service": "c", "Datacenter": "dc2", "ConnectTimeout": "5s"}, "p": {"Service": "p", "Peer": "p"}`)
	}
	said := upstreams(t, `{"Overrides": [{"Name": "a", "Limits": {"MaxConcurrentRequests": 3}}, {"Name": "b", "Limits": {"MaxConcurrentRequests": 9}}]}`)
	r := chain().Policies("a", "", said)
	if got, want := policyNames(r), "a.route b.circuit_breaker b.load_balancing c.dc2.circuit_breaker"; got != want {
		t.Errorf("policies are %s, want %s", got, want)
	}
	if n := policyOf(t, r, "b.circuit_breaker").GetCircuitBreaker().GetMaxConcurrent(); n != 3 {
		t.Errorf("the limit of who was called is %d, want 3", n)
	}
	if b := policyOf(t, r, "b.load_balancing").GetLoadBalancing(); b.GetConnectTimeout().AsDuration() != 2*time.Second || len(b.GetFailover()) != 1 {
		t.Errorf("%v", b)
	}
	r = chain().Policies("a", "", upstreams(t, `{"Defaults": {"ConnectTimeoutMs": 70}}`))
	for _, name := range []string{"b", "c.dc2"} {
		if b := policyOf(t, r, name+".load_balancing").GetLoadBalancing(); b.GetConnectTimeout().AsDuration() != 70*time.Millisecond {
			t.Errorf("%s: %v", name, b)
		}
	}
}

func TestUpstreamsThatAreNotObeyed(t *testing.T) {
	t.Parallel()
	r := defaultChain(t, "grpc").Policies("a", "", upstreams(t, `{"Defaults": {"EnvoyClusterJSON": "{}", "Protocol": "grpc", "MeshGateway": {"Mode": "local"}, "BalanceOutboundConnections": "exact_balance"},
		"Overrides": [{"Name": "a", "EnvoyListenerJSON": "{}", "MeshGateway": {}, "Limits": {"MaxConnections": 1, "MaxPendingRequests": 2, "MaxConcurrentRequests": 0}}]}`))
	holdAll(t, "notes", r.Notes, []string{
		"upstream_config.defaults.envoy_cluster_json", "upstream_config.defaults.protocol", "upstream_config.defaults.mesh_gateway", "upstream_config.defaults.balance_outbound",
		"upstream_config.overrides[0].envoy_listener_json", "limits.max_connections is 1", "limits.max_pending_requests is 2",
	})
	if len(r.Refused) != 1 || !r.Refused[0].Partial || !strings.Contains(r.Refused[0].Problem, `service-defaults "web": upstream_config.overrides[0].limits.max_concurrent_requests is 0`) {
		t.Errorf("%+v", r.Refused)
	}
	if n := policyOf(t, r, "a.circuit_breaker").GetCircuitBreaker().GetMaxConcurrent(); n != 1 {
		t.Errorf("limit is %d", n)
	}
	// With TCP there are no RPCs to limit, but connections.
	r = defaultChain(t, "tcp").Policies("a", "", upstreams(t, `{"Defaults": {"ConnectTimeoutMs": 70, "Limits": {"MaxConcurrentRequests": 2}}}`))
	holdAll(t, "notes", r.Notes, []string{"its protocol is tcp"})
	if got := policyNames(r); got != "a.load_balancing" {
		t.Errorf("policies are %s", got)
	}
	u, err := ParseUpstreams([]byte(`{"Kind": "service-defaults", "Name": "web", "LocalRequestTimeoutMs": 1, "LocalConnectTimeoutMs": 1, "MaxInboundConnections": 1, "EnvoyExtensions": [{}], "RateLimits": {}, "BalanceInboundConnections": "exact_balance"}`))
	if err != nil {
		t.Fatal(err)
	}
	holdAll(t, "own notes", u.Notes, []string{"local_request_timeout_ms", "local_connect_timeout_ms", "max_inbound_connections", "envoy_extensions", "rate_limits", "balance_inbound_connections"})
}

func TestAnswersThatAreNoServiceDefaults(t *testing.T) {
	t.Parallel()
	for _, none := range []string{"null", "", " null\n"} {
		if u, err := ParseUpstreams([]byte(none)); u != nil || err != nil {
			t.Errorf("%q: %v, %v", none, u, err)
		}
	}
	for _, answer := range []string{`[]`, `{}`, `{"Kind": "proxy-defaults"}`, `{"Kind": "service-defaults", "UpstreamConfig": {"Defaults": {"ConnectTimeoutMs": "x"}}}`} {
		if _, err := ParseUpstreams([]byte(answer)); err == nil || !strings.Contains(err.Error(), "no service-defaults entry") {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// FuzzUpstreams makes policies of anything that may pass for a service-defaults entry.
func FuzzUpstreams(f *testing.F) {
	f.Add([]byte(`{"Kind": "service-defaults", "Name": "web", "LocalRequestTimeoutMs": 1, "UpstreamConfig": {"Defaults": {"ConnectTimeoutMs": -3, "Limits": {"MaxConnections": -1, "MaxPendingRequests": 2, "MaxConcurrentRequests": 99999999999}},
		"Overrides": [null, {"Name": "a", "Protocol": "tcp", "PassiveHealthCheck": {"Interval": -1, "MaxFailures": 3, "EnforcingConsecutive5xx": 1, "MaxEjectionPercent": 4000000000, "BaseEjectionTime": "10000h"}}]}}`))
	f.Cleanup(configyaml.HoldRules())
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := ParseUpstreams(text)
		if err != nil {
			return
		}
		for _, protocol := range []string{"grpc", "tcp"} {
			r := defaultChain(t, protocol).Policies("a", "", u)
			for _, p := range r.Policies {
				if err := configyaml.CheckPolicy(p); err != nil || !strings.HasPrefix(p.GetName(), PolicyPrefix) {
					t.Fatalf("%v: %v", p, err)
				}
			}
			_ = compiled(t, r)
			for _, note := range r.Notes {
				if strings.Contains(note, "\n") || len(note) > 1100 {
					t.Fatalf("%q", note)
				}
			}
		}
	})
}
