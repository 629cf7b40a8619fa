package upgrade

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// migrations is how many orders are tried at a time, each different in each run.
const migrations = 2

// What a side of a sidecar speaks; plain is a sidecar without any identity.
const (
	plain      = "plain"
	off        = "off"
	permissive = "permissive"
	strict     = "strict"
)

// migrant is a sidecar that goes from plaintext to mutual TLS, step by step.
type migrant struct {
	*service

	name     string
	options  options
	inbound  string // what it speaks
	outbound string
}

// A mesh goes from plaintext to strict mutual TLS by edited configurations and SIGHUP,
// sidecar by sidecar, in any order that does not have a sidecar insist on what its
// neighbours do not speak yet. Two services call each other, and a client both of them;
// no RPC fails. Who still comes without TLS is reported, until nobody does.
func TestMigrationToMutualTLS(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t, consul.WithConnect(nil))
	for range migrations {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("%x", seed), func(t *testing.T) {
			t.Parallel()
			migrate(t, agent, rand.New(rand.NewPCG(seed, 0)), fmt.Sprintf("-%x", seed))
		})
	}
}

func migrate(t *testing.T, agent *consul.Agent, random *rand.Rand, suffix string) {
	t.Helper()

	const web, left, right = "web", "left", "right"
	callers := map[string][]string{left: {web, right}, right: {web, left}}
	migrants := map[string]*migrant{}
	for _, name := range []string{left, right, web} {
		m := &migrant{name: name + suffix, inbound: plain, outbound: plain}
		m.options = options{outbound: harness.FreeAddress(t), admin: harness.FreeAddress(t), service: m.name}
		if name != web {
			m.options.app, m.options.inbound = load.StartApp(t, m.name, "").Address, harness.FreeAddress(t)
		}
		m.options.settings = m.settings(agent)
		m.service = start(t, m.options)
		migrants[name] = m
	}
	var loads []*load.Load
	var of []string // whom each of them calls
	for called, callers := range callers {
		for _, caller := range callers {
			conn := load.Dial(t, migrants[caller].Outbound, grpc.WithAuthority(migrants[called].name))
			consul.Eventually(t, caller+" finds "+called, func() bool {
				name, err := load.Who(t.Context(), conn)

				return err == nil && name == migrants[called].name
			})
			loads = append(loads, load.Start(t, conn, load.Options{PerSecond: 50, StreamEvery: 4, AtOnce: 20, MayBeSlow: true}))
			of = append(of, migrants[called].name)
		}
	}
	check := func(what string) {
		t.Helper()
		loads[random.IntN(len(loads))].More(t, 200*time.Millisecond)
		for _, l := range loads {
			l.Check(t, what)
		}
	}
	check("in plaintext")

	// First all learn TLS. Some get their identity first, and speak as before.
	for _, name := range shuffled(random, left, right, web) {
		m := migrants[name]
		for _, step := range [][2]string{{off, off}, {permissive, permissive}} {
			if step[0] == off && random.IntN(2) == 0 {
				continue
			}
			m.become(t, agent, step[0], step[1])
			check(m.name + " became " + step[0])
		}
	}
	for called := range callers {
		m := migrants[called]
		eventually(t, m.name+" is called by mutual TLS alone", func() bool { return len(plaintextCallers(t, m)) == 0 })
	}
	// Then all insist on it, one side after the other.
	type side struct {
		of      string
		inbound bool
	}
	for _, s := range shuffled(random, side{left, true}, side{left, false}, side{right, true}, side{right, false}, side{web, false}) {
		m := migrants[s.of]
		in, out := m.inbound, m.outbound
		if s.inbound {
			in = strict
		} else {
			out = strict
		}
		m.become(t, agent, in, out)
		check(fmt.Sprintf("%s became strict, its inbound side: %v", m.name, s.inbound))
	}

	for called := range callers {
		m := migrants[called]
		if code, said := reportPlaintext(t, m); code != 0 || !strings.Contains(said, m.name+": nobody came without TLS") {
			t.Errorf("pillion report plaintext of %s in the end: exit %d:\n%s", m.name, code, said)
		}
		if open := m.Metric(t, "pillion_mesh_connections", `side="inbound"`, `security="mtls"`); open == 0 {
			t.Errorf("nobody is connected to %s by mutual TLS", m.name)
		}
	}
	for i, l := range loads {
		for name, count := range l.End(t).Answered {
			if name != of[i] {
				t.Errorf("%d RPCs for %s were answered by %s", count, of[i], name)
			}
		}
	}
	for _, m := range migrants {
		if count := m.lines(`"level":"ERROR"`); count > 0 {
			t.Errorf("%s said %d lines of errors:\n%s", m.name, count, m.Output())
		}
	}
}

func shuffled[E any](random *rand.Rand, all ...E) []E {
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })

	return all
}

// settings are those of a bootstrap that speaks as the migrant is to.
func (m *migrant) settings(agent *consul.Agent) map[string]any {
	outbound := map[string]any{"listen": m.options.outbound}
	settings := map[string]any{
		"registry": map[string]any{"consul": map[string]any{"address": agent.Address}},
		"drain":    map[string]any{"timeout": "60s"}, "outbound": outbound,
	}
	if m.outbound != plain {
		settings["identity"] = map[string]any{"consul": map[string]any{"service": m.name}}
		outbound["tls"] = m.outbound
	}
	if m.options.app == "" {
		return settings
	}
	inbound := map[string]any{"listen": m.options.inbound}
	if m.inbound != plain {
		inbound["tls"] = m.inbound
	}
	settings["inbound"] = inbound
	settings["service"] = map[string]any{
		"name": m.name, "address": m.options.app,
		// The app has no health service: Consul must not find out.
		"health_check": map[string]any{"disabled": true},
	}

	return settings
}

// become has the sidecar speak something else, by an upgrade in place. Who still came
// without TLS until now is reported.
func (m *migrant) become(t *testing.T, agent *consul.Agent, inbound, outbound string) {
	t.Helper()

	t.Logf("%s: from inbound %s, outbound %s to %s, %s", m.name, m.inbound, m.outbound, inbound, outbound)
	if inbound == permissive && m.inbound != permissive && m.options.app != "" {
		if code, said := reportPlaintext(t, m); code != 1 || !strings.Contains(said, m.name) || !strings.Contains(said, "127.0.0.1") {
			t.Errorf("pillion report plaintext of %s, in plaintext: exit %d:\n%s", m.name, code, said)
		}
	}
	m.inbound, m.outbound = inbound, outbound
	m.options.settings = m.settings(agent)
	m.configure(t, bootstrap(t, m.options))
	m.upgrade(t)
}

// reportPlaintext is what the command says of the sidecar.
func reportPlaintext(t testing.TB, m *migrant, flags ...string) (code int, said string) {
	t.Helper()

	return harness.Run(t, harness.Command{
		Path: harness.Pillion(t), Args: append([]string{"report", "plaintext", "--admin", m.Admin}, flags...),
	})
}

// plaintextCallers are the hosts that are connected to the sidecar without TLS.
func plaintextCallers(t testing.TB, m *migrant) (hosts []string) {
	t.Helper()

	_, said := reportPlaintext(t, m, "--output", "json")
	var answer struct {
		Callers []struct {
			Host        string
			Connections int
		}
	}
	if err := json.NewDecoder(strings.NewReader(said)).Decode(&answer); err != nil {
		t.Fatalf("pillion report plaintext: %v in\n%s", err, said)
	}
	for _, c := range answer.Callers {
		if c.Connections > 0 {
			hosts = append(hosts, c.Host)
		}
	}

	return hosts
}
