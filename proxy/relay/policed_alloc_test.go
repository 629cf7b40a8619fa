package relay

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/retry"
)

// Policies that have nothing to do allocate nothing: those of an RPC that does not fail
// have what they need from the RPC before. It is not parallel: what is counted is
// what the whole process allocates.
func TestPoliciesThatDoNothingAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget some of what they are given")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or pools would lose it too
	retries := retryPolicy(func(p *retry.Policy) {
		p.Limits = retry.NewLimits(&retry.BudgetOptions{Ratio: 0.2}, &retry.ThrottlingOptions{MaxTokens: 10, TokenRatio: 0.1})
	})
	hedging := hedgingPolicy()
	given := func(give func(*policed)) func(*rig) *rig {
		return func(r *rig) *rig { return r.under(give) }
	}
	obeyed := func(yaml string) func(*rig) *rig {
		return func(r *rig) *rig { r.obey(yaml); return r }
	}
	cost := map[string]float64{}
	counted := map[string]*counts{}
	for name, set := range map[string]func(*rig) *rig{
		"none": func(r *rig) *rig { return r },
		"retry and timeouts": given(func(p *policed) {
			gives(time.Minute, time.Hour, 2*time.Hour)(p)
			p.retry = retries
		}),
		"hedging":                 given(func(p *policed) { p.hedging = hedging }),
		"policies of others":      obeyed(otherPolicies("others")),
		"policies that match not": obeyed(otherPolicies("greeter")),
		"policies that match":     obeyed(matchingPolicies),
		"split policies": func(r *rig) *rig {
			o := r.observe(splitPoliciesThatMatch)
			for _, group := range []string{"a", "b", "v1"} {
				counted[group] = new(counts)
			}
			o.count = counted
			return r
		},
	} {
		cost[name] = allocations(t, set)
	}
	for name, n := range cost {
		// What the peers of the test allocate differs a little.
		if more := n - cost["none"]; more > 0.5 {
			t.Errorf("with %s an RPC takes %.2f allocations more than the %.2f without", name, more, cost["none"])
		}
	}
	t.Log(fmt.Sprint(cost))
	for group, c := range counted {
		if c.rpcs < 400 || c.measured != 2*c.rpcs {
			t.Errorf("of group %s observers were told of %d RPCs with %d measures", group, c.rpcs, c.measured)
		}
	}
}

// allocations is how many the process makes for an RPC under policies that set sets.
func allocations(t *testing.T, set func(*rig) *rig) (each float64) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}})
		a := r.listen(1)[0]
		r = set(r)
		id := uint32(1)
		exchange := func() {
			// As many fields as leave the test's peers room for more without another slice.
			r.Request(id, "/a.B/C", true, "user-id", "alice", "cookie", "session=1; theme=dark", "x-more", "1")
			a.Conn().Frames()
			a.Conn().TrailersOnly(id, "0", "pillion-measure-cost", "1.5", "pillion-measure-items", "3")
			if f := r.Frames(); len(f) != 1 || f[0].Get("grpc-status") != "0" {
				t.Fatalf("the caller got %v", f)
			}
			id += 2
		}
		const rpcs = 400
		for range rpcs { // all that grows has grown then
			exchange()
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rpcs {
			exchange()
		}
		runtime.ReadMemStats(&after)
		each = float64(after.Mallocs-before.Mallocs) / rpcs
	})
	return each
}

// otherPolicies are of each kind, for a thousand methods of a service, none of which
// the test's RPCs call, and with a thousand rules, none of which is for them.
func otherPolicies(service string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "- {name: versions, service: %s, subsets: {subsets: {v1: {meta: {version: v1}}}}}\n", service)
	fmt.Fprintf(&b, "- {name: balancing, service: %s, load_balancing: {policy: least_request, panic_threshold: 50, locality: {}, slow_start: {}}}\n", service)
	fmt.Fprintf(&b, "- {name: ejection, service: %s, outlier_ejection: {}}\n", service)
	fmt.Fprintf(&b, "- {name: instances, service: %s, circuit_breaker: {per_instance: {failure_ratio: 0.5}}}\n", service)
	for i := range 1000 {
		for kind, what := range map[string]string{
			"timeout":         "{per_attempt: 4s, idle: 60s}",
			"retry":           "{max_attempts: 3, retryable_status_codes: [UNAVAILABLE]}",
			"circuit_breaker": "{trip: {failure_ratio: 0.5}, max_concurrent: 1000}",
			"rate_limit":      "{limits: [{requests: 1000000}]}",
			"fault":           "{abort: {status: {code: ABORTED}, fraction: 10000}}",
		} {
			fmt.Fprintf(&b, "- {name: %s-%d, service: %s, methods: [\"other.Service/Method%d\"], %s: %s}\n", kind, i, service, i, kind, what)
		}
	}
	fmt.Fprintf(&b, "- name: routes\n  service: %s\n  route:\n    rules:\n", service)
	for i := range 1000 {
		match := [...]string{
			"methods: [\"other.Service/Method%d\"]", "metadata: [{key: user-id, exact: \"%d\"}]", "cookies: [{key: session, prefix: x%d}]", "callers: [caller-%d]",
		}[i%4]
		fmt.Fprintf(&b, "    - {match: {"+match+"}, to: {subset: v1}}\n", i)
	}
	return b.String()
}

// matchingPolicies are of each kind that holds for methods, all for the test's RPCs.
const matchingPolicies = `
- name: routes
  service: greeter
  route:
    rules:
    - match: {metadata: [{key: user-id, regex: "ali.*"}], cookies: [{key: session, exact: "1"}]}
      split: {sticky: {key: {metadata: user-id}}, destinations: [{weight: 9000, service: greeter, group: a}, {weight: 1000, service: greeter, group: b}]}
      request: {set: {x-route: first}, remove: [x-debug]}
      response: {set: {x-served-by: greeter}}
- {name: patience, service: greeter, timeout: {default: 2s, max: 10s, per_attempt: 4s, idle: 60s, max_age: 3600s}}
- {name: again, service: greeter, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], budget: {}}}
- {name: fuse, service: greeter, circuit_breaker: {trip: {failure_ratio: 0.5}, max_concurrent: 1000}}
- {name: limit, service: greeter, rate_limit: {limits: [{requests: 1000000, key: {metadata: user-id}}]}}
- {name: fault, service: greeter, fault: {match: {metadata: [{key: x-fault, present: true}]}, abort: {status: {code: ABORTED}, fraction: 10000}}}
`

// splitPoliciesThatMatch are an experiment, a canary and one that only names, all for the
// test's RPCs.
const splitPoliciesThatMatch = `
- {name: versions, service: greeter, subsets: {subsets: {v1: {}}}}
- {name: one, service: greeter, split: {order: 1, ranges: [{key: {metadata: user-id}, seed: l, start: 0, end: 10000}], split: {group_key: "-", sticky: {key: {metadata: user-id}}, destinations: [{weight: 10000, group: a}]}}}
- {name: two, service: greeter, split: {order: 2, match: {metadata: [{key: x-more, exact: "1"}]}, split: {destinations: [{weight: 10000, group: b, request: {remove: [x-more]}}]}}}
- {name: canary, service: greeter, split: {order: 3, split: {group_key: "-", sticky: {key: {cookie: session}}, destinations: [{weight: 10000, subset: v1}]}}}
`
