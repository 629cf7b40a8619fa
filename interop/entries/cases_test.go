package entries

import (
	"time"

	"github.com/hashicorp/consul/api"
)

// testCase is what is written into Consul for a service, and what RPCs to it come to.
type testCase struct {
	// name is the service's.
	name    string
	entries []api.ConfigEntry
	// instances of each service, "" for the case's own. Default: both versions of it.
	instances map[string][]placed
	rpcs      []rpc
	// settle is what an RPC has that is answered once all is known.
	settle map[string]string
	// shares are of many RPCs: where each goes how often.
	shares map[string]float64
	// upstream is what the callers' service-defaults say of the service.
	upstream *api.UpstreamConfig
	// limit is how many RPCs there may be at a time; 0: not looked at.
	limit int
	// ejects: an instance that fails is left alone.
	ejects bool
	// timeout: connecting to an instance takes too long, as this says.
	timeout string
	// policy is a Pillion's own, in YAML.
	policy string
}

// placed is an instance.
type placed struct{ version, status string }

// rpc is one that both callers make, and what is expected of it.
type rpc struct {
	method string // default: any
	head   map[string]string
	// want is where it goes, "service/version" ("*": any version), or how it ends, such as
	// "Unavailable".
	want string
	// times is how often it has to come to an instance. Default: not looked at.
	times int
	// seen are headers that the instance sees, back those that come back; "": none.
	seen, back map[string]string
	// least and most bound how long it takes.
	least, most time.Duration
	// many: it is made so often, and each time has to go to the same instance.
	many int
	// differs is what is expected of a Pillion where that is not the same.
	differs string
}

const (
	hello = "/helloworld.Greeter/SayHello"
	bye   = "/helloworld.Greeter/SayBye"
	other = "/other.Service/Method"
)

func resolver(name string, change func(*api.ServiceResolverConfigEntry)) *api.ServiceResolverConfigEntry {
	r := &api.ServiceResolverConfigEntry{Kind: api.ServiceResolver, Name: name}
	change(r)
	return r
}

// versions is a resolver with a subset for each version.
func versions(name string, change ...func(*api.ServiceResolverConfigEntry)) *api.ServiceResolverConfigEntry {
	return resolver(name, func(r *api.ServiceResolverConfigEntry) {
		r.Subsets = map[string]api.ServiceResolverSubset{
			v1: {Filter: "Service.Meta.version == v1"}, v2: {Filter: `"is-v2" in Service.Tags and Service.Meta.version != "v1"`},
		}
		for _, c := range change {
			c(r)
		}
	})
}

func router(name string, routes ...api.ServiceRoute) *api.ServiceRouterConfigEntry {
	return &api.ServiceRouterConfigEntry{Kind: api.ServiceRouter, Name: name, Routes: routes}
}

func when(match api.ServiceRouteHTTPMatch, to api.ServiceRouteDestination) api.ServiceRoute {
	return api.ServiceRoute{Match: &api.ServiceRouteMatch{HTTP: &match}, Destination: &to}
}

func header(match api.ServiceRouteHTTPMatchHeader) api.ServiceRouteHTTPMatch {
	return api.ServiceRouteHTTPMatch{Header: []api.ServiceRouteHTTPMatchHeader{match}}
}

func splitter(name string, splits ...api.ServiceSplit) *api.ServiceSplitterConfigEntry {
	return &api.ServiceSplitterConfigEntry{Kind: api.ServiceSplitter, Name: name, Splits: splits}
}

var toV2 = api.ServiceRouteDestination{ServiceSubset: v2}

// defaultV1 has RPCs go to the first version unless a route says otherwise.
func defaultV1(r *api.ServiceResolverConfigEntry) { r.DefaultSubset = v1 }

var cases = []testCase{
	{
		name: "redirect",
		entries: []api.ConfigEntry{resolver("redirect", func(r *api.ServiceResolverConfigEntry) {
			r.Redirect = &api.ServiceResolverRedirect{Service: "redirect-to", ServiceSubset: v2}
		}), versions("redirect-to")},
		instances: map[string][]placed{
			"": {{version: v1}}, "redirect-to": {{version: v1}, {version: v2}},
		},
		rpcs: []rpc{{want: "redirect-to/v2"}},
	},
	{
		name:    "default-subset",
		entries: []api.ConfigEntry{versions("default-subset", func(r *api.ServiceResolverConfigEntry) { r.DefaultSubset = v2 })},
		rpcs:    []rpc{{want: "default-subset/v2"}, {method: hello, want: "default-subset/v2"}},
	},
	{
		name: "only-passing",
		entries: []api.ConfigEntry{resolver("only-passing", func(r *api.ServiceResolverConfigEntry) {
			r.DefaultSubset, r.Subsets = "well", map[string]api.ServiceResolverSubset{"well": {OnlyPassing: true}}
		})},
		instances: map[string][]placed{"": {{v1, api.HealthWarning}, {v2, api.HealthPassing}}},
		rpcs:      []rpc{{want: "only-passing/v2", many: 10}},
	},
	{
		name: "failover-service",
		entries: []api.ConfigEntry{resolver("failover-service", func(r *api.ServiceResolverConfigEntry) {
			r.Failover = map[string]api.ServiceResolverFailover{"*": {Service: "failover-standby"}}
		})},
		instances: map[string][]placed{"": {{v1, api.HealthCritical}}, "failover-standby": {{version: v2}}},
		rpcs:      []rpc{{want: "failover-standby/v2"}},
	},
	{
		name: "failover-subset",
		entries: []api.ConfigEntry{versions("failover-subset", defaultV1, func(r *api.ServiceResolverConfigEntry) {
			r.Failover = map[string]api.ServiceResolverFailover{v1: {ServiceSubset: v2}}
		})},
		instances: map[string][]placed{"": {{v1, api.HealthCritical}, {version: v2}}},
		rpcs:      []rpc{{want: "failover-subset/v2"}},
	},
	{
		name: "failover-none",
		entries: []api.ConfigEntry{versions("failover-none", defaultV1, func(r *api.ServiceResolverConfigEntry) {
			r.Failover = map[string]api.ServiceResolverFailover{v2: {Service: "failover-standby"}}
		}), router("failover-none", when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-to", Exact: v2}), toV2))},
		instances: map[string][]placed{"": {{v1, api.HealthCritical}, {v2, api.HealthCritical}}},
		settle:    map[string]string{"y-to": v2},
		rpcs:      []rpc{{want: "Unavailable"}, {head: map[string]string{"y-to": v2}, want: "failover-standby/v2"}},
	},
	{
		name: "split", entries: []api.ConfigEntry{versions("split"), splitter("split",
			api.ServiceSplit{Weight: 90, ServiceSubset: v1, RequestHeaders: &api.HTTPHeaderModifiers{Set: map[string]string{"Y-Leg": "stable"}}},
			api.ServiceSplit{Weight: 10, ServiceSubset: v2, RequestHeaders: &api.HTTPHeaderModifiers{Set: map[string]string{"y-leg": "canary"}}})},
		shares: map[string]float64{"split/v1 stable": 0.9, "split/v2 canary": 0.1},
	},
	{
		name: "split-answers", entries: []api.ConfigEntry{versions("split-answers"), splitter("split-answers",
			api.ServiceSplit{Weight: 33.33, ServiceSubset: v1, ResponseHeaders: &api.HTTPHeaderModifiers{Add: map[string]string{"y-from": "first"}}},
			api.ServiceSplit{Weight: 33.33, ServiceSubset: v2, ResponseHeaders: &api.HTTPHeaderModifiers{Add: map[string]string{"y-from": "second"}}},
			api.ServiceSplit{Weight: 33.34, Service: "split-third", ResponseHeaders: &api.HTTPHeaderModifiers{Add: map[string]string{"y-from": "third"}}})},
		instances: map[string][]placed{"": {{version: v1}, {version: v2}}, "split-third": {{version: v1}}},
		shares:    map[string]float64{"split-answers/v1 first": 0.3333, "split-answers/v2 second": 0.3333, "split-third/v1 third": 0.3334},
	},
	{
		name: "split-nested", entries: []api.ConfigEntry{
			splitter("split-nested", api.ServiceSplit{Weight: 50, Service: "split-inner"}, api.ServiceSplit{Weight: 50, Service: "split-third"}),
			versions("split-inner"), splitter("split-inner", api.ServiceSplit{Weight: 80, ServiceSubset: v1}, api.ServiceSplit{Weight: 20, ServiceSubset: v2}),
		},
		instances: map[string][]placed{"": {{version: v1}}, "split-inner": {{version: v1}, {version: v2}}},
		shares:    map[string]float64{"split-inner/v1 ": 0.4, "split-inner/v2 ": 0.1, "split-third/v1 ": 0.5},
	},
	{
		name: "paths", entries: []api.ConfigEntry{versions("paths", defaultV1), router("paths",
			when(api.ServiceRouteHTTPMatch{PathExact: bye}, toV2),
			when(api.ServiceRouteHTTPMatch{PathPrefix: "/other.Service/M"}, toV2),
			when(api.ServiceRouteHTTPMatch{PathRegex: "/third[.]Service/(A|B)"}, toV2),
			when(api.ServiceRouteHTTPMatch{PathExact: "/FOURTH.service/x", CaseInsensitive: true}, toV2))},
		rpcs: []rpc{
			{method: hello, want: "paths/v1"}, {method: bye, want: "paths/v2"}, {method: bye + "Bye", want: "paths/v1"},
			{method: other, want: "paths/v2"}, {method: "/other.Service/Other", want: "paths/v1"},
			{method: "/third.Service/A", want: "paths/v2"}, {method: "/third.Service/AB", want: "paths/v1"},
			{method: "/fourth.Service/X", want: "paths/v2"},
		},
	},
	{
		name: "headers", entries: []api.ConfigEntry{versions("headers", defaultV1), router("headers",
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "Y-Exact", Exact: "a"}), toV2),
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-prefix", Prefix: "pre"}), toV2),
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-suffix", Suffix: "fix"}), toV2),
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-regex", Regex: "r+"}), toV2),
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-present", Present: true}), toV2),
			when(api.ServiceRouteHTTPMatch{PathExact: bye, Header: []api.ServiceRouteHTTPMatchHeader{{Name: "y-none", Present: true, Invert: true}}}, toV2),
			when(api.ServiceRouteHTTPMatch{PathExact: other, Header: []api.ServiceRouteHTTPMatchHeader{{Name: "y-other", Exact: "a", Invert: true}}}, toV2))},
		rpcs: []rpc{
			{want: "headers/v1"},
			{head: map[string]string{"y-exact": "a"}, want: "headers/v2"}, {head: map[string]string{"y-exact": "ab"}, want: "headers/v1"},
			{head: map[string]string{"y-prefix": "prefer"}, want: "headers/v2"}, {head: map[string]string{"y-prefix": "apre"}, want: "headers/v1"},
			{head: map[string]string{"y-suffix": "affix"}, want: "headers/v2"}, {head: map[string]string{"y-suffix": "fixa"}, want: "headers/v1"},
			{head: map[string]string{"y-regex": "rrr"}, want: "headers/v2"}, {head: map[string]string{"y-regex": "rra"}, want: "headers/v1"},
			{head: map[string]string{"y-present": "x"}, want: "headers/v2"},
			{method: bye, want: "headers/v2"}, {method: bye, head: map[string]string{"y-none": "x"}, want: "headers/v1"},
			{method: other, head: map[string]string{"y-other": "a"}, want: "headers/v1"},
			{method: other, head: map[string]string{"y-other": "b"}, want: "headers/v2"},
			// Turned around or not, a condition on a value needs one.
			{method: other, want: "headers/v1"},
		},
	},
	{
		name: "http-only", entries: []api.ConfigEntry{versions("http-only", defaultV1), router("http-only",
			when(api.ServiceRouteHTTPMatch{QueryParam: []api.ServiceRouteHTTPMatchQueryParam{{Name: "x", Present: true}}}, toV2),
			when(api.ServiceRouteHTTPMatch{Methods: []string{"GET", "PUT"}}, toV2),
			when(api.ServiceRouteHTTPMatch{PathExact: bye, Methods: []string{"GET", "POST"}}, toV2))},
		rpcs: []rpc{{want: "http-only/v1"}, {method: bye, want: "http-only/v2"}},
	},
	{
		name: "changes", entries: []api.ConfigEntry{versions("changes"), splitter("changes",
			api.ServiceSplit{Weight: 100, ServiceSubset: v1, RequestHeaders: &api.HTTPHeaderModifiers{
				Add: map[string]string{"y-added": "leg"}, Set: map[string]string{"y-set": "leg", "y-leg": "leg"}, Remove: []string{"y-kept"},
			}}),
			router("changes", when(api.ServiceRouteHTTPMatch{PathPrefix: "/"}, api.ServiceRouteDestination{
				RequestHeaders: &api.HTTPHeaderModifiers{
					Add: map[string]string{"y-added": "route", "y-percent": "100%%"}, Set: map[string]string{"y-set": "route"}, Remove: []string{"y-removed"},
				},
				ResponseHeaders: &api.HTTPHeaderModifiers{Set: map[string]string{"y-answer": "changed"}, Add: map[string]string{"y-more": "more"}, Remove: []string{"y-internal"}},
			}))},
		rpcs: []rpc{{
			head: map[string]string{"y-added": "own", "y-set": "own", "y-removed": "own", "y-kept": "own", "y-left": "own"}, want: "changes/v1",
			seen: map[string]string{"y-added": "own,leg,route", "y-set": "route", "y-leg": "leg", "y-removed": "", "y-kept": "", "y-left": "own", "y-percent": "100%"},
			back: map[string]string{"y-answer": "changed", "y-more": "more", "y-internal": ""},
		}},
	},
	{
		name: "retries", entries: []api.ConfigEntry{router("retries",
			when(api.ServiceRouteHTTPMatch{PathExact: hello}, api.ServiceRouteDestination{NumRetries: 3, RetryOn: []string{"unavailable", "resource-exhausted"}}),
			when(api.ServiceRouteHTTPMatch{PathExact: bye}, api.ServiceRouteDestination{RetryOn: []string{"unavailable"}}),
			when(api.ServiceRouteHTTPMatch{PathExact: other, Header: []api.ServiceRouteHTTPMatchHeader{{Name: "y-again", Present: true}}}, api.ServiceRouteDestination{NumRetries: 2, RetryOn: []string{"cancelled", "internal", "deadline-exceeded"}}),
			when(api.ServiceRouteHTTPMatch{PathExact: other}, api.ServiceRouteDestination{NumRetries: 2, RetryOnStatusCodes: []uint32{503}}))},
		instances: map[string][]placed{"": {{version: v1}}},
		rpcs: []rpc{
			{method: hello, head: fail(2, "14"), want: "retries/v1", times: 3},
			{method: hello, head: fail(9, "14"), want: "Unavailable", times: 4},
			{method: hello, head: fail(9, "8"), want: "ResourceExhausted", times: 4},
			{method: hello, head: fail(9, "13"), want: "Internal", times: 1},
			{method: bye, head: fail(9, "14"), want: "Unavailable", times: 2},
			{method: other, head: fail(9, "13"), want: "Internal", times: 1},
			{method: other, head: fail(9, "14"), want: "Unavailable", times: 1},
			{method: other, head: with(fail(2, "13"), "y-again", "1"), want: "retries/v1", times: 3},
			{method: "/fifth.Service/Method", head: fail(9, "14"), want: "Unavailable", times: 1},
		},
	},
	{
		name: "timeouts", entries: []api.ConfigEntry{router("timeouts",
			when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-quick", Present: true}), api.ServiceRouteDestination{RequestTimeout: 400 * time.Millisecond}),
			when(api.ServiceRouteHTTPMatch{PathExact: hello}, api.ServiceRouteDestination{IdleTimeout: time.Minute, RequestTimeout: 5 * time.Second}))},
		instances: map[string][]placed{"": {{version: v1}}},
		rpcs: []rpc{
			{head: map[string]string{"y-quick": "1", askSleep: "9s"}, want: "Unavailable", differs: "DeadlineExceeded", least: 300 * time.Millisecond, most: 3 * time.Second},
			{head: map[string]string{"y-quick": "1"}, want: "timeouts/v1"},
			{method: hello, head: map[string]string{askSleep: "700ms"}, want: "timeouts/v1", least: 600 * time.Millisecond, most: 4 * time.Second},
		},
	},
	{
		name:      "timeout-resolver",
		entries:   []api.ConfigEntry{resolver("timeout-resolver", func(r *api.ServiceResolverConfigEntry) { r.RequestTimeout = 400 * time.Millisecond })},
		instances: map[string][]placed{"": {{version: v1}}},
		rpcs:      []rpc{{head: map[string]string{askSleep: "9s"}, want: "Unavailable", differs: "DeadlineExceeded", least: 300 * time.Millisecond, most: 3 * time.Second}},
	},
	{
		name: "hash-header", entries: []api.ConfigEntry{resolver("hash-header", func(r *api.ServiceResolverConfigEntry) {
			r.LoadBalancer = &api.LoadBalancer{Policy: "maglev", HashPolicies: []api.HashPolicy{{Field: "header", FieldValue: "y-User", Terminal: true}}}
		})},
		rpcs: []rpc{
			{head: map[string]string{"y-user": "ann"}, want: "hash-header/*", many: 20}, {head: map[string]string{"y-user": "bob"}, want: "hash-header/*", many: 20},
			{head: map[string]string{"y-user": "eve"}, want: "hash-header/*", many: 20},
		},
	},
	{
		name: "hash-cookie", entries: []api.ConfigEntry{resolver("hash-cookie", func(r *api.ServiceResolverConfigEntry) {
			r.LoadBalancer = &api.LoadBalancer{Policy: "ring_hash", RingHashConfig: &api.RingHashConfig{MinimumRingSize: 2048, MaximumRingSize: 4096}, HashPolicies: []api.HashPolicy{{Field: "cookie", FieldValue: "session"}}}
		})},
		rpcs: []rpc{
			{head: map[string]string{"cookie": "session=1"}, want: "hash-cookie/*", many: 20}, {head: map[string]string{"cookie": "session=2"}, want: "hash-cookie/*", many: 20},
		},
	},
	{
		name: "least-request", entries: []api.ConfigEntry{resolver("least-request", func(r *api.ServiceResolverConfigEntry) {
			r.LoadBalancer = &api.LoadBalancer{Policy: "least_request", LeastRequestConfig: &api.LeastRequestConfig{ChoiceCount: 2}}
		})},
		shares: map[string]float64{"least-request/v1 ": 0.5, "least-request/v2 ": 0.5},
	},
	{
		name: "rewrite", entries: []api.ConfigEntry{router("rewrite",
			when(api.ServiceRouteHTTPMatch{PathPrefix: "/old.Service/"}, api.ServiceRouteDestination{PrefixRewrite: "/new.Service/"}))},
		instances: map[string][]placed{"": {{version: v1}}},
		rpcs:      []rpc{{method: hello, want: "rewrite/v1"}, {method: "/old.Service/M", want: "rewrite/v1", differs: "Unimplemented"}},
	},
	{
		name: "limit", entries: nil,
		upstream: &api.UpstreamConfig{Limits: &api.UpstreamLimits{MaxConnections: new(10), MaxPendingRequests: new(10), MaxConcurrentRequests: new(2)}},
		limit:    2,
	},
	{
		name: "limit-redirect", entries: []api.ConfigEntry{resolver("limit-redirect", func(r *api.ServiceResolverConfigEntry) {
			r.Redirect = &api.ServiceResolverRedirect{Service: "limit-to"}
		})},
		instances: map[string][]placed{"": {{version: v1}}, "limit-to": {{version: v2}}},
		upstream:  &api.UpstreamConfig{Limits: &api.UpstreamLimits{MaxConcurrentRequests: new(1)}},
		limit:     1,
	},
	{
		name: "ejects", entries: nil,
		upstream: &api.UpstreamConfig{PassiveHealthCheck: &api.PassiveHealthCheck{
			Interval: time.Hour, MaxFailures: 3, EnforcingConsecutive5xx: new(uint32(100)), MaxEjectionPercent: new(uint32(100)), BaseEjectionTime: new(time.Hour),
		}},
		ejects: true,
	},
	{
		name: "connect", entries: nil, instances: map[string][]placed{"": {{version: silent}}},
		upstream: &api.UpstreamConfig{ConnectTimeoutMs: 300}, timeout: "the caller's",
	},
	{
		name:      "connect-resolver",
		entries:   []api.ConfigEntry{resolver("connect-resolver", func(r *api.ServiceResolverConfigEntry) { r.ConnectTimeout = 300 * time.Millisecond })},
		instances: map[string][]placed{"": {{version: silent}}}, timeout: "the service's",
	},
	{
		name: "yields", entries: []api.ConfigEntry{versions("yields"), splitter("yields", api.ServiceSplit{Weight: 100, ServiceSubset: v1}, api.ServiceSplit{ServiceSubset: v2})},
		policy: "{name: divide, service: yields, split: {split: {destinations: [{weight: 10000, subset: v2}]}}},",
		rpcs:   []rpc{{want: "yields/v1", differs: "yields/v2"}},
	},
	{
		name: "plain", entries: nil, instances: map[string][]placed{"": {{version: v1}}},
		rpcs: []rpc{{want: "plain/v1"}},
	},
}

// fail has an instance fail an RPC so often with a status.
func fail(times int, code string) map[string]string {
	return map[string]string{askFail: string(rune('0' + times)), askCode: code}
}

func with(head map[string]string, key, value string) map[string]string {
	head[key] = value
	return head
}

// chains are entries that are written for what Consul compiles of them alone: package
// chain's tests look at it. One agent has no other datacentres to send RPCs to.
var chains = []testCase{
	{name: "failover-datacenter", entries: []api.ConfigEntry{versions("failover-datacenter", defaultV1, func(r *api.ServiceResolverConfigEntry) {
		r.Failover = map[string]api.ServiceResolverFailover{"*": {Datacenters: []string{"dc2", "dc3"}}}
	}), router("failover-datacenter", when(header(api.ServiceRouteHTTPMatchHeader{Name: "y-to", Exact: v2}), toV2))}},
	{name: "redirect-datacenter", entries: []api.ConfigEntry{resolver("redirect-datacenter", func(r *api.ServiceResolverConfigEntry) {
		r.Redirect = &api.ServiceResolverRedirect{Service: "far", Datacenter: "dc2"}
		r.ConnectTimeout = 0
	})}},
	{name: "gateway", entries: []api.ConfigEntry{
		&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "gateway", Protocol: "grpc", MeshGateway: api.MeshGatewayConfig{Mode: api.MeshGatewayModeLocal}},
		resolver("gateway", func(r *api.ServiceResolverConfigEntry) {
			r.ConnectTimeout = 9 * time.Second
			r.Failover = map[string]api.ServiceResolverFailover{"*": {Targets: []api.ServiceResolverFailoverTarget{{Datacenter: "dc2"}, {Service: "failover-standby"}, {Peer: "cluster-02"}}}}
		}),
	}},
	{name: "tcp", entries: []api.ConfigEntry{
		&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "tcp", Protocol: "tcp"},
		resolver("tcp", func(r *api.ServiceResolverConfigEntry) {
			r.DefaultSubset, r.Subsets = v1, map[string]api.ServiceResolverSubset{v1: {Filter: "Service.Meta.version == v1"}}
			r.RequestTimeout = time.Second
		}),
	}},
	{name: "hash-many", entries: []api.ConfigEntry{resolver("hash-many", func(r *api.ServiceResolverConfigEntry) {
		r.LoadBalancer = &api.LoadBalancer{Policy: "ring_hash", RingHashConfig: &api.RingHashConfig{MinimumRingSize: 16, MaximumRingSize: 1 << 20}, HashPolicies: []api.HashPolicy{
			{Field: "query_parameter", FieldValue: "q"}, {SourceIP: true}, {Field: "cookie", FieldValue: "c", CookieConfig: &api.CookieConfig{TTL: time.Minute, Path: "/"}},
		}}
	})}},
	{name: "odd-changes", entries: []api.ConfigEntry{router("odd-changes", when(api.ServiceRouteHTTPMatch{PathPrefix: "/"}, api.ServiceRouteDestination{
		RequestHeaders:  &api.HTTPHeaderModifiers{Set: map[string]string{"grpc-timeout": "1S", "x-ip": "%DOWNSTREAM_REMOTE_ADDRESS%", "x-fine": "1"}},
		ResponseHeaders: &api.HTTPHeaderModifiers{Remove: []string{"content-type"}}, NumRetries: 30, RetryOn: []string{"5xx", "retriable-4xx"},
	}))}},
}
