package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// policySettings are what the part about policies is measured in.
var policySettings = map[string]setting{
	settings[0].name: {name: "policies one", title: settings[0].title, workers: settings[0].workers, pinned: settings[0].pinned},
	settings[1].name: {name: "policies two", title: settings[1].title, workers: settings[1].workers},
}

// Ceilings on what an RPC costs under all kinds of policies: as a share of what it
// costs under none, and of what it costs HAProxy, which has none.
const (
	policiesShare = 1.4
	bareName      = "bare"
	obeyName      = "obey"
	hedgedName    = "hedged"
	passName      = "pass"
)

var policyShapes = []struct {
	shape   shape
	haproxy float64
}{{shape{8, 32}, 0.6}, {shape{64, 8}, 0.75}}

// policyCase is a Pillion that the part about policies is measured with.
type policyCase struct {
	name, title string
	// policies says that there are any.
	policies bool
	// path is that of the i-th method that is called.
	path func(i int) string
}

var policyCases = []policyCase{
	{name: bareName, title: "no policy", path: retriedPath},
	{name: obeyName, title: "each kind of policy, of which all hold for the RPCs (retry)", policies: true, path: retriedPath},
	{name: hedgedName, title: "the same, for RPCs that may be hedged instead", policies: true, path: hedgedPath},
	{name: passName, title: "the same, none of which holds for the RPCs", policies: true, path: otherPath},
}

const (
	// routes is how many rules the route has, each with a method of its own, for which
	// there is a policy of each kind.
	routes = 1000
	// calledMethods of them are called, the last among them.
	calledMethods = 10
)

func retriedPath(i int) string { return methodPath((i+1)*routes/calledMethods - 1) }
func hedgedPath(i int) string  { return methodPath((i+1)*routes/calledMethods - 3) }
func otherPath(i int) string   { return fmt.Sprintf("/bench.Other%04d/Call", i) }

func methodPath(i int) string { return "/" + methodName(i) }
func methodName(i int) string { return grpcName(i) + "/Call" }

// policyHeaders go with each request: what rules look at.
var policyHeaders = []string{"cookie: theme=dark; session=5f2a", "x-tenant: acme"}

// Where the called service's instances are. All RPCs stay in the first zone, where
// there is one of three that has the new version.
const (
	farHost  = "127.0.0.4"
	nearZone = "z1"
)

var nearHosts = []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}

// mesh is the case's mesh.yaml. Without policies there are only the near instances, with
// weights, so that the RPCs go over the same connections in the same shares: an RPC costs
// more on a connection that has few of them at a time, or that both workers want.
func (c policyCase) mesh(port string) string {
	var b strings.Builder
	at := func(host, zone, version string, weight int) {
		fmt.Fprintf(&b, "    - {address: %q, weight: %d, meta: {zone: %s, version: %s}}\n", net.JoinHostPort(host, port), weight, zone, version)
	}
	b.WriteString("services:\n  greeter:\n    endpoints:\n")
	weights := []int{45, 45, 10}
	if c.policies {
		weights = []int{1, 1, 1}
	}
	for i, host := range nearHosts {
		at(host, nearZone, []string{"v1", "v1", "v2"}[i], weights[i])
	}
	if !c.policies {
		return b.String()
	}
	at(farHost, "z2", "v1", 1)
	b.WriteString("  spare:\n    endpoints:\n")
	at(farHost, "z2", "v1", 1)
	b.WriteString(servicePolicies)
	b.WriteString("- name: routes\n  service: greeter\n  route:\n    rules:\n")
	for i := range routes {
		b.WriteString(rule(i))
	}
	for i := range routes {
		b.WriteString(methodPolicies(i))
	}
	return b.String()
}

// servicePolicies are those of the service as a whole.
const servicePolicies = `policies:
- name: versions
  service: greeter
  subsets: {subsets: {v1: {meta: {version: v1}, fallback: any}, v2: {meta: {version: v2}, fallback: v1}}}
- name: balancing
  service: greeter
  load_balancing:
    policy: least_request
    panic_threshold: 30
    locality: {max_load_ratio: 0}
    slow_start: {}
    failover: [{service: spare}]
- name: ejection
  service: greeter
  outlier_ejection: {success_rate: {}, failure_percentage: {}}
- name: instances
  service: greeter
  circuit_breaker: {per_instance: {failure_ratio: 0.5}}
- name: health
  service: greeter
  health_check: {}
`

// rule is the i-th of the route. Those of the methods that are called come with two
// that look at the same RPCs and let them pass.
// All requests have the same keys; with these seeds one of ten in the new version's group.
func rule(i int) string {
	switch i % 5 {
	case 0: // by a value
		return fmt.Sprintf("    - {name: r%04d, match: {metadata: [{key: x-tenant, exact: tenant-%d}]}, to: {subset: v2}}\n", i, i)
	case 1: // by a part of a cookie
		return fmt.Sprintf("    - {name: r%04d, match: {cookies: [{key: user, exact: user-%d}]}, to: {subset: v2}}\n", i, i)
	case 3: // by who calls
		return fmt.Sprintf("    - {name: r%04d, match: {callers: [caller-%d], methods: [%q]}, to: {service: spare}}\n", i, i, grpcName(i))
	}
	key := "metadata: x-user-id"
	if i*calledMethods/routes%2 == 0 {
		key = "cookie: session"
	}
	return fmt.Sprintf(`    - {name: r%04[1]d-admin, match: {methods: [%[2]q], metadata: [{key: x-user-id, regex: "admin-.*"}]}, to: {subset: v2}}
    - {name: r%04[1]d-few, match: {methods: [%[2]q], fraction: 0}, to: {service: spare}}
    - name: r%04[1]d
      match:
        methods: [%[2]q]
        metadata: [{key: x-user-id, range: {start: 1, end: 1000000}}, {key: user-agent, prefix: grpc-go}]
        cookies: [{key: session, present: true}]
      split:
        sticky: {key: {%[3]s}, seed: s16-%[4]d}
        destinations: [{weight: 9000, subset: v1}, {weight: 1000, subset: v2}]
      timeout: 3s
      request: {set: {x-route: r%04[1]d}, remove: [x-debug]}
      response: {set: {x-served-by: greeter}}
      mirror: {to: {service: spare}, fraction: 1}
`, i, methodName(i), key, i)
}

// methodPolicies are those of the i-th method.
func methodPolicies(i int) string {
	again := "retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], conditions: [connect-failure, reset-before-headers], budget: {}, throttling: {max_tokens: 100, token_ratio: 0.1}}"
	if i%5 == 2 {
		again = "hedging: {max_attempts: 2, hedging_delay: 2s, non_fatal_status_codes: [UNAVAILABLE], budget: {}}"
	}
	var b strings.Builder
	for _, kind := range []string{
		"timeout: {default: 2s, max: 10s, per_attempt: 4s, idle: 60s, max_age: 3600s}",
		again,
		"circuit_breaker: {trip: {consecutive_failures: 100, failure_ratio: 0.5, slow_call_ratio: 0.9, slow_call: 10s}, max_concurrent: 100000, max_pending: 100}",
		"rate_limit: {limits: [{requests: 50000000, key: {metadata: x-user-id}}]}",
		"fault: {match: {metadata: [{key: x-fault, present: true}]}, abort: {status: {code: ABORTED}, fraction: 10000}, allow_metadata: true}",
	} {
		name, _, _ := strings.Cut(kind, ":")
		fmt.Fprintf(&b, "- {name: %s-%04d, service: greeter, methods: [%q], %s}\n", name, i, methodName(i), kind)
	}
	return b.String()
}

// bootstrap is the case's pillion.yaml.
func (c policyCase) bootstrap(s site) string {
	return fmt.Sprintf(`service: {name: web, address: %q, meta: {zone: %s}}
outbound: {listen: %q}
admin: {listen: %q}
registry:
  file: {path: mesh.yaml}
`, s.backend, nearZone, s.listen, s.admin)
}

// launch writes the case's configuration and says how to run Pillion with it.
func (c policyCase) launch(s site) (launch, error) {
	_, port, err := net.SplitHostPort(s.backend)
	if err != nil {
		return launch{}, err
	}
	return launchMesh(s, c.bootstrap(s), c.mesh(port))
}

// policies measures what policies cost an RPC, beside none and HAProxy.
func (r *rig) policies(ctx context.Context, all []participant) error {
	if err := r.start(ctx, append(slices.Clone(nearHosts), farHost)...); err != nil {
		return err
	}
	for _, p := range all {
		if p.name == haproxyName {
			c, err := r.join(ctx, p.name, p.bin, p.launch)
			if err != nil {
				return err
			}
			c.forgiven = forgivenRuns
			r.call(c, retriedPath)
		}
		if p.name != pillionName {
			continue
		}
		for _, pc := range policyCases {
			c, err := r.join(ctx, pc.name, p.bin, pc.launch)
			if err != nil {
				return err
			}
			r.call(c, pc.path)
		}
	}
	if err := r.measureMemory(); err != nil {
		return err
	}
	for round := range r.opts.rounds {
		r.sayf("policies: %s, round %d of %d", r.setting.title, round+1, r.opts.rounds)
		for _, s := range policyShapes {
			for _, c := range r.turn(round) {
				err := r.insist(c, s.shape.scene(), func() error { _, err := r.fullLoad(ctx, c, s.shape); return err })
				if err != nil {
					return err
				}
			}
		}
	}
	if err := r.measurePeak(sceneMemory); err != nil {
		return err
	}
	for _, c := range r.contestants {
		if err := r.obeyed(ctx, c); err != nil {
			return err
		}
		if err := r.profilePolicies(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// call has the load call a contestant as the rules want it.
func (r *rig) call(c *contestant, path func(int) string) {
	c.authority, c.headers = "greeter", policyHeaders
	c.path = path(0)
	for i := 1; i < calledMethods; i++ {
		c.more = append(c.more, path(i))
	}
}

// profilePolicies takes profiles where they are asked for.
func (r *rig) profilePolicies(ctx context.Context, c *contestant) error {
	if r.opts.profile == "" || c.name == haproxyName {
		return nil
	}
	s := policyShapes[0].shape
	measured := r.results.of(r.setting.name, c.name, s.scene(), rpcPerSecond)
	requests := int(median(measured) * profileLoad * profileTime.Seconds())
	return r.profile(ctx, c, scene(c.name), r.unary(c, s, requests, 0))
}

var (
	// groupCount finds how many RPCs went to a split's group.
	groupCount = regexp.MustCompile(`(?m)^pillion_group_rpcs_total\{.*group="(v[12])".*\} (\S+)$`)

	errDisobeyed = errors.New("not what the policies say")
)

// obeyed fails where the policies were not in force, so that something else than
// they was measured.
func (r *rig) obeyed(ctx context.Context, c *contestant) error {
	if c.name == haproxyName {
		return nil
	}
	var page bytes.Buffer
	if err := get(ctx, "http://"+c.site.admin+"/metrics", &page); err != nil {
		return c.proc.failed("metrics: %w", err)
	}
	counts := map[string]float64{}
	for _, found := range groupCount.FindAllStringSubmatch(page.String(), -1) {
		n, err := strconv.ParseFloat(found[2], 64)
		if err != nil {
			return c.proc.failed("metrics: %w", err)
		}
		counts[found[1]] += n
	}
	share := counts["v2"] / (counts["v1"] + counts["v2"])
	switch c.name {
	case obeyName, hedgedName:
		if !(share > 0 && share < 0.5) {
			return c.proc.failed("%w: RPCs to v1 and v2 are %v", errDisobeyed, counts)
		}
	default:
		if len(counts) > 0 {
			return c.proc.failed("%w: RPCs that no rule is for are counted in groups: %v", errDisobeyed, counts)
		}
	}
	return nil
}

// policyTargets judges what policies cost.
func policyTargets(r results, chosen []setting) []target {
	var all []target
	for _, s := range chosen {
		at := policySettings[s.name]
		share := func(c, of string, where shape) float64 {
			cost, ok := compare(r.of(at.name, c, where.scene(), cpuPerRPC), r.of(at.name, of, where.scene(), cpuPerRPC))
			if !ok {
				return math.NaN()
			}
			return cost.ofMedians
		}
		for _, p := range policyShapes {
			all = append(all, target{
				what:  fmt.Sprintf("%s: CPU per RPC at %s with each kind of policy on 1,000 routes ÷ no policy", s.workersText(), p.shape),
				limit: policiesShare, digits: 3, got: share(obeyName, bareName, p.shape),
			}, target{
				what:  fmt.Sprintf("%s: the same at %s ÷ %s's, which has none", s.workersText(), p.shape, haproxyName),
				limit: p.haproxy, digits: 3, got: share(obeyName, haproxyName, p.shape),
			})
		}
	}
	return all
}

func (o *outcome) writePolicies(w *bytes.Buffer) {
	for _, name := range o.opts.settings {
		s := policySettings[name]
		of := func(c string, at scene, m metric) []float64 { return o.results.of(s.name, c, at, m) }
		if len(of(bareName, policyShapes[0].shape.scene(), cpuPerRPC)) == 0 {
			continue
		}
		fmt.Fprintf(w, "## What policies cost: %s, 1,000 routes\n\n", s.workersText())
		t := table{head: []string{""}}
		for _, p := range policyShapes {
			t.head = append(t.head, fmt.Sprintf("%s: CPU, µs per RPC", p.shape), "÷ no policy", "÷ HAProxy")
		}
		t.head = append(t.head, "idle, MB", "peak, MB")
		row := func(c, title string) {
			cells := []string{title}
			for _, p := range policyShapes {
				at := p.shape.scene()
				cells = append(cells, figure(of(c, at, cpuPerRPC), 1, 2))
				for _, base := range []string{bareName, haproxyName} {
					if c == base || c == haproxyName {
						cells = append(cells, "")
						continue
					}
					r, ok := compare(of(c, at, cpuPerRPC), of(base, at, cpuPerRPC))
					cells = append(cells, r.text(ok, false))
				}
			}
			t.row(append(cells, figure(of(c, sceneMemory, idleRSS), megabyte, 1), figure(of(c, sceneMemory, peakRSS), megabyte, 1))...)
		}
		for _, c := range policyCases {
			row(c.name, c.title)
		}
		if p, ok := o.participant(haproxyName); ok {
			row(haproxyName, p.label())
		}
		t.write(w)
	}
}
