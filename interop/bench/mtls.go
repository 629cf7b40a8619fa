package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mtlsSettings are what the part about mutual TLS is measured in.
var mtlsSettings = map[string]setting{
	settings[0].name: {name: "mtls one", title: settings[0].title, workers: settings[0].workers, pinned: settings[0].pinned},
	settings[1].name: {name: "mtls two", title: settings[1].title, workers: settings[1].workers},
}

// mtlsShares and mtlsMicros are ceilings on the CPU of both sidecars per RPC: as shares of what peers
// take, and in microseconds.
var mtlsShares = []struct {
	peer  string
	share float64
}{{haproxyName, 0.5}, {envoyName, 1.0 / 6}}

var mtlsMicros = []struct {
	shape  shape
	micros float64
}{{shape{8, 32}, 20}, {shape{64, 8}, 25}}

// rulesShare is what an RPC may cost under many access rules, over its cost under few.
const rulesShare = 1.05

// ruleKinds are what says who may call what.
var ruleKinds = []struct {
	what string
	name func(int) string
}{{"access rules", rulesName}, {"intentions", intentionsName}}

// rulesShape is the load under which that is measured.
var rulesShape = shape{8, 32}

// Names of the pairs of Pillions with access rules, by how many.
const (
	fewRules  = 10
	manyRules = 10_000
	// A smoke test does not wait for so many.
	quickRules = 100
)

// ruleCounts are how many rules pairs have: few, and many.
func (o *options) ruleCounts() [2]int {
	if o.quick {
		return [2]int{fewRules, quickRules}
	}
	return [2]int{fewRules, manyRules}
}

// known says whether a contestant is a peer, and not a Pillion with rules.
func known(name string) bool { _, ok := securePairs[name]; return ok }

func rulesName(n int) string { return fmt.Sprintf("rules %d", n) }

// secureSite is where a pair of proxies runs: the near one beside the client, the far
// one beside the backend, and mutual TLS between them.
type secureSite struct {
	site
	// far is where the far one listens.
	far, farAdmin string
	certificates  certificates
	// rules is how many access rules a far Pillion has.
	rules int
}

// secureLaunch says how to run both of a pair.
type secureLaunch func(secureSite) (near, far launch, err error)

// securePairs are the peers that are measured in pairs.
var securePairs = map[string]secureLaunch{
	pillionName: launchPillions,
	haproxyName: launchHAProxies,
	envoyName:   launchEnvoys,
}

func launchPillions(s secureSite) (near, far launch, err error) {
	const nearConfig, farConfig, nearMesh, farMesh = "near.yaml", "far.yaml", "near-mesh.yaml", "far-mesh.yaml"
	identity := func(service string) string {
		return fmt.Sprintf("identity:\n  files: {certificate: %q, key: %q, roots: %q}\n", s.certificates.Cert(service), s.certificates.Key(service), s.certificates.Roots())
	}
	limits := fmt.Sprintf("http2: {max_concurrent_streams: %d, max_connections: %d}\n", s.limits.streams, s.limits.conns)
	var errs []error
	for name, text := range map[string]string{
		nearConfig: fmt.Sprintf("outbound: {listen: %q, default_service: %s}\nadmin: {listen: %q}\nregistry: {file: {path: %s}}\n", s.listen, calledName, s.admin, nearMesh) + identity(callerName),
		nearMesh:   fmt.Sprintf("services: {%s: {endpoints: [{address: %q}]}}\n", calledName, s.far),
		farConfig: fmt.Sprintf("service: {name: %s, address: %q}\ninbound: {listen: %q}\nadmin: {listen: %q}\nregistry: {file: {path: %s}}\n",
			calledName, s.backend, s.far, s.farAdmin, farMesh) + identity(calledName) + limits,
		farMesh: "services: {}\n" + accessRules(s.rules),
	} {
		errs = append(errs, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	return s.runPillion(nearConfig, s.admin), s.runPillion(farConfig, s.farAdmin), errors.Join(errs...)
}

func (s secureSite) runPillion(config, admin string) launch {
	return launch{argv: []string{s.bin, "run", "-c", config}, env: goWorkers(s.workers), ready: httpOK("http://" + admin + "/ready")}
}

// accessRules are policies of n rules, of which the last alone lets the load pass. Most
// of the rest are for other callers, some for the load's on other methods, some for
// everyone.
func accessRules(n int) string {
	if n == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "policies:\n- name: access\n  service: %s\n  access:\n    rules:\n", calledName)
	for i := range n - 1 {
		switch i % 10 {
		case 7:
			fmt.Fprintf(&b, "    - {action: allow, from: [%q], methods: [%q]}\n", spiffeID(callerName), methodName(i))
		case 8:
			fmt.Fprintf(&b, "    - {action: deny, from: [%q], methods: [%q], metadata: [{key: x-tenant, exact: tenant-%d}]}\n", spiffeID(callerName), methodName(i), i)
		case 9:
			fmt.Fprintf(&b, "    - {action: deny, methods: [%q]}\n", methodName(i))
		default:
			fmt.Fprintf(&b, "    - {action: allow, from: [%q]}\n", spiffeID(fmt.Sprintf("caller-%d", i)))
		}
	}
	fmt.Fprintf(&b, "    - {action: allow, from: [%q], methods: [%q]}\n", spiffeID(callerName), strings.TrimPrefix(rpcPath, "/"))
	return b.String()
}

func launchHAProxies(s secureSite) (near, far launch, err error) {
	run := func(config string) (launch, error) {
		path, err := s.write(config)
		return launch{argv: []string{s.bin, "-db", "-f", path}}, err
	}
	near, errNear := run("haproxy-near.cfg")
	far, errFar := run("haproxy-far.cfg")
	return near, far, errors.Join(errNear, errFar)
}

func launchEnvoys(s secureSite) (near, far launch, err error) {
	run := func(config string) (launch, error) {
		path, err := s.write(config)
		return launch{argv: []string{s.bin, "-c", path, "--concurrency", strconv.Itoa(s.workers), "--disable-hot-restart", "--log-level", "error"}}, err
	}
	near, errNear := run("envoy-near.yaml")
	far, errFar := run("envoy-far.yaml")
	return near, far, errors.Join(errNear, errFar)
}

// write writes one of the pair's configurations.
func (s secureSite) write(name string) (string, error) {
	return writeTemplate(name, s.dir, map[string]any{
		"Listen": s.listen, "Backend": s.backend, "Admin": s.admin, "Workers": s.workers, "Conns": s.limits.conns, "Streams": s.limits.streams,
		"Far": s.far, "FarAdmin": s.farAdmin, "Certificates": s.certificates, "Domain": benchDomain,
		"Caller": callerName, "Called": calledName, "CalledID": spiffeID(calledName),
	})
}

// joinPair starts a pair. It is one contestant, whose CPU is that of both.
func (r *rig) joinPair(ctx context.Context, name, bin string, c certificates, rules int, pair secureLaunch) (*contestant, error) {
	var between string
	contestant, err := r.join(ctx, name, bin, func(s site) (launch, error) {
		more, err := freeAddresses(2)
		if err != nil {
			return launch{}, err
		}
		between = more[0]
		near, far, err := pair(secureSite{site: s, far: more[0], farAdmin: more[1], certificates: c, rules: rules})
		ready := func(ctx context.Context) bool {
			for _, l := range []launch{near, far} {
				if l.ready != nil && !l.ready(ctx) {
					return false
				}
			}
			return true
		}
		return launch{argv: together(r.self, near.argv, far.argv), env: near.env, ready: ready}, err
	})
	if err != nil {
		return nil, err
	}
	if err := contestant.proc.waitListening(ctx, between); err != nil {
		return nil, err
	}
	return contestant, isSecure(ctx, contestant, between)
}

var errInsecure = errors.New("it lets in who has no certificate")

// isSecure fails where the port between a pair lets somebody in who has no certificate,
// so that something else than mutual TLS would be measured.
func isSecure(ctx context.Context, c *contestant, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	plain := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	nc, err := (&tls.Dialer{Config: plain}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil // refused, as it should be
	}
	defer func() { _ = nc.Close() }()
	// The server's verdict on the certificate comes after the client's handshake is over.
	deadline, _ := ctx.Deadline()
	err = errors.Join(nc.SetDeadline(deadline), greet(nc))
	var late net.Error
	if err == nil || errors.As(err, &late) && late.Timeout() {
		return c.proc.failed("%w: %v", errInsecure, err)
	}
	return nil
}

// mtls measures what an RPC costs through two sidecars with mutual TLS between them.
func (r *rig) mtls(ctx context.Context, all []participant) error {
	certificates, err := makeCertificates(filepath.Join(r.dir, "certificates"))
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	for _, p := range all {
		pair, ok := securePairs[p.name]
		if !ok {
			continue
		}
		c, err := r.joinPair(ctx, p.name, p.bin, certificates, 0, pair)
		if err != nil {
			return err
		}
		if p.name != pillionName {
			c.forgiven = forgivenRuns
			continue
		}
		agent, err := r.joinRuled(ctx, p.bin, certificates)
		if agent != nil {
			defer agent.stop()
		}
		if err != nil {
			return err
		}
	}
	if err := r.measureMemory(); err != nil {
		return err
	}
	for round := range r.opts.rounds {
		if err := r.mtlsRound(ctx, round); err != nil {
			return err
		}
	}
	if err := r.measurePeak(sceneMemory); err != nil {
		return err
	}
	if !r.setting.pinned {
		return nil
	}
	return r.handshakes(ctx, certificates)
}

// joinRuled starts pairs of Pillions with few and many access rules, and, where there is
// a Consul, intentions. The agent is left to the caller to stop.
func (r *rig) joinRuled(ctx context.Context, pillion string, c certificates) (agent *process, err error) {
	first := len(r.contestants)
	for _, n := range r.opts.ruleCounts() {
		if _, err := r.joinPair(ctx, rulesName(n), pillion, c, n, launchPillions); err != nil {
			return nil, err
		}
	}
	if consul, err := findTool("consul"); err != nil {
		r.sayf("Consul's intentions are skipped, since there is no Consul: make tools")
	} else if agent, err = r.joinIntentions(ctx, consul, pillion); err != nil {
		return agent, err
	}
	for _, c := range r.contestants[first:] {
		if err := denies(ctx, c); err != nil {
			return agent, err
		}
	}
	return agent, nil
}

func (r *rig) mtlsRound(ctx context.Context, round int) error {
	r.sayf("mtls: %s, round %d of %d", r.setting.title, round+1, r.opts.rounds)
	for _, s := range r.opts.shapes {
		for _, c := range r.turn(round) {
			if s != rulesShape && !known(c.name) {
				continue
			}
			if err := r.insist(c, s.scene(), func() error { _, err := r.fullLoad(ctx, c, s); return err }); err != nil {
				return err
			}
		}
	}
	return nil
}

// mtlsTargets judges the part.
func mtlsTargets(r results, chosen []setting, o *options) []target {
	counts := o.ruleCounts()
	few, many := counts[0], counts[1]
	var all []target
	for _, s := range chosen {
		at := mtlsSettings[s.name]
		cost := func(name string, where shape) []float64 { return r.of(at.name, name, where.scene(), cpuPerRPC) }
		share := func(a, b []float64) float64 {
			c, ok := compare(a, b)
			if !ok {
				return math.NaN()
			}
			return c.ofMedians
		}
		for _, m := range mtlsMicros {
			for _, p := range mtlsShares {
				all = append(all, target{
					what:  fmt.Sprintf("%s: CPU per RPC of two sidecars with mutual TLS, %s ÷ %s's", s.workersText(), m.shape, p.peer),
					limit: p.share, digits: 3, got: share(cost(pillionName, m.shape), cost(p.peer, m.shape)),
				})
			}
			all = append(all, target{
				what:  fmt.Sprintf("%s: CPU per RPC of two sidecars with mutual TLS, %s", s.workersText(), m.shape),
				limit: m.micros, digits: 1, unit: " µs", got: median(cost(pillionName, m.shape)),
			})
		}
		for _, kind := range ruleKinds {
			all = append(all, target{
				what:  fmt.Sprintf("%s: the same, %s, with %d %s ÷ with %d", s.workersText(), rulesShape, many, kind.what, few),
				limit: rulesShare, digits: 3, got: share(cost(kind.name(many), rulesShape), cost(kind.name(few), rulesShape)),
			})
		}
		if s.pinned {
			all = append(all, handshakeTarget(r, at))
		}
	}
	return all
}

// writeMTLS shows the part.
func (o *outcome) writeMTLS(w *bytes.Buffer) {
	if !o.opts.has(partMTLS) {
		return
	}
	for _, name := range o.opts.settings {
		s := mtlsSettings[name]
		of := func(c string, at scene, m metric) []float64 { return o.results.of(s.name, c, at, m) }
		if len(of(pillionName, o.opts.shapes[0].scene(), cpuPerRPC)) == 0 {
			continue
		}
		fmt.Fprintf(w, "## Two sidecars, mutual TLS between them: %s each\n\n", s.workersText())
		over := o.overIt()
		t := table{head: []string{""}}
		for _, shape := range o.opts.shapes {
			t.head = append(t.head, fmt.Sprintf("%s: CPU, µs per RPC", shape), over, "1,000 RPC/s")
		}
		t.head = append(t.head, "idle, MB", "peak, MB")
		row := func(c, title string, ratio func(scene) string) {
			cells := []string{title}
			for _, shape := range o.opts.shapes {
				cells = append(cells, figure(of(c, shape.scene(), cpuPerRPC), 1, 2), ratio(shape.scene()), figure(of(c, shape.scene(), rpcPerSecond), kilo, 1))
			}
			t.row(append(cells, figure(of(c, sceneMemory, idleRSS), megabyte, 1), figure(of(c, sceneMemory, peakRSS), megabyte, 1))...)
		}
		for _, p := range o.participants {
			if !known(p.name) {
				continue
			}
			row(p.name, p.label(), func(at scene) string { return o.ratioTo(p, s.name, at, cpuPerRPC) })
			if p.name != pillionName {
				continue
			}
			for _, kind := range ruleKinds {
				for _, n := range o.opts.ruleCounts() {
					row(kind.name(n), fmt.Sprintf("Pillion, %d %s", n, kind.what), func(scene) string { return "" })
				}
			}
		}
		t.write(w)
		o.writeFailures(w, s)
		o.writeHandshakes(w, s)
	}
}
