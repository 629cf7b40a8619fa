package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// observed is what observers of groups were told.
type observed struct {
	told  []string
	units map[string]uint64 // by group, of the last RPC
	took  time.Duration     // that one
	// count is set where the outcomes are only counted, by group.
	count map[string]*counts
}

type counts struct{ rpcs, measured int }

type observer struct {
	of  *observed
	key telemetry.GroupKey
}

func (o *observer) Ended(out *telemetry.Outcome) {
	if c := o.of.count[o.key.Group]; c != nil {
		c.rpcs++
		c.measured += len(out.Measures)
		return
	}
	text := fmt.Sprintf("%s/%s %s", o.key.Policy, o.key.Group, wire.StatusName(out.Code))
	if out.Excused {
		text += " excused"
	}
	if out.Forced {
		text += " forced"
	}
	for _, m := range out.Measures {
		text += fmt.Sprintf(" %s=%v", strings.Clone(m.Name), m.Value)
	}
	o.of.told = append(o.of.told, text)
	o.of.units[o.key.Group], o.of.took = out.Unit, out.Took
}

// take returns what was told since it was last asked.
func (o *observed) take() []string {
	told := o.told
	o.told = nil
	return told
}

// observe puts policies in force whose groups are observed.
func (r *rig) observe(yaml string) *observed {
	r.t.Helper()
	o := &observed{units: map[string]uint64{}}
	set := compileIn(r.t, policy.Env{
		Group:    r.counters.Group,
		Observer: func(key telemetry.GroupKey) telemetry.Observer { return &observer{o, key} },
	}, nil, yaml)
	r.cluster.Configure(set.Service("greeter").Cluster())
	for name, c := range r.router.others {
		c.Configure(set.Service(name).Cluster())
	}
	r.router.policies.Store(set)
	return o
}

const twoVersions = `
- {name: versions, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}
`

// canaryOf has all RPCs in one group of two.
func canaryOf(stable, canary int, more string) string {
	return fmt.Sprintf(`- {name: canary.c, service: greeter, split: {order: 2000, split: {%s destinations: [{weight: %d, group: stable, subset: v1}, {weight: %d, group: canary, subset: v2}]}}}
`, more, stable, canary)
}

const withVariant = `- {name: experiment.e, service: greeter, split: {order: 1000, match: {metadata: [{key: x, present: true}]}, split: {group_key: x-variant, destinations: [{weight: 10000, group: blue}]}}}
`

// Where RPCs go that split policies divide, what the app is told, and who is told of it.
func TestSplitPoliciesDivideRPCs(t *testing.T) {
	for _, c := range []struct {
		name    string
		yaml    string
		request []string
		host    string            // that gets it: v1, v2 or other
		app     map[string]string // metadata that the app gets
		told    []string
		group   string // in the access log
		log     string // route in the access log
	}{
		{name: "a canary", yaml: canaryOf(0, 10000, ""), host: "v2", app: map[string]string{"pillion-group": "canary"},
			told: []string{"canary.c/canary OK"}, group: "canary", log: "test"},
		{name: "a stable version", yaml: canaryOf(10000, 0, ""), host: "v1", app: map[string]string{"pillion-group": "stable"},
			told: []string{"canary.c/stable OK"}, group: "stable"},
		{name: "forced", yaml: canaryOf(10000, 0, "allow_force: true,"), request: []string{"pillion-force", "canary"}, host: "v2",
			told: []string{"canary.c/canary OK forced"}, group: "canary"},
		{name: "what callers write is gone", yaml: canaryOf(10000, 0, ""), request: []string{"pillion-group", "canary"}, host: "v1",
			app: map[string]string{"pillion-group": "stable"}, told: []string{"canary.c/stable OK"}},
		{name: "with a variant", yaml: canaryOf(0, 10000, "") + withVariant, request: []string{"x", "1"}, host: "v2",
			app:  map[string]string{"pillion-group": "canary", "x-variant": "blue"},
			told: []string{"experiment.e/blue OK", "canary.c/canary OK"}, group: "blue,canary"},
		{name: "behind a route to the service", yaml: canaryOf(0, 10000, "") + `- {name: r, service: greeter, route: {rules: [{request: {set: {x-r: "1"}}, to: {}}]}}`,
			host: "v2", app: map[string]string{"pillion-group": "canary", "x-r": "1"}, told: []string{"canary.c/canary OK"}, log: "r/1"},
		{name: "but not to a part of it", yaml: canaryOf(0, 10000, "") + withVariant + `- {name: r, service: greeter, route: {rules: [{to: {subset: v1}}]}}`,
			request: []string{"x", "1"}, host: "v1", app: map[string]string{"pillion-group": "", "x-variant": "blue"}, told: []string{"experiment.e/blue OK"}, group: "blue"},
		{name: "nor behind a split to one", yaml: canaryOf(0, 10000, "") + `- {name: r, service: greeter, route: {rules: [{split: {destinations: [{weight: 10000, group: g, subset: v1}]}}]}}`,
			host: "v1", app: map[string]string{"pillion-group": "g"}, group: "g"},
		{name: "but behind one that yields", yaml: canaryOf(0, 10000, "") + `- {name: r, service: greeter, route: {rules: [{yields: true, request: {set: {x-r: "1"}}, split: {destinations: [{weight: 10000, group: g, subset: v1, request: {set: {x-g: "1"}}}]}}]}}`,
			host: "v2", app: map[string]string{"pillion-group": "canary", "x-r": "1", "x-g": ""}, told: []string{"canary.c/canary OK"}, group: "canary", log: "r/1"},
		{name: "behind one that yields to nobody", yaml: strings.Replace(canaryOf(0, 10000, ""), "split: {order: 2000,", "split: {order: 2000, match: {metadata: [{key: x, present: true}]},", 1) + `- {name: r, service: greeter, route: {rules: [{yields: true, split: {destinations: [{weight: 10000, group: g, subset: v1, request: {set: {x-g: "1"}}}]}}]}}`,
			host: "v1", app: map[string]string{"pillion-group": "g", "x-g": "1"}, group: "g", log: "r/1"},
		{name: "behind a part that yields", yaml: canaryOf(0, 10000, "") + `- {name: r, service: greeter, route: {rules: [{yields: true, to: {subset: v1}}]}}`,
			host: "v2", app: map[string]string{"pillion-group": "canary"}, told: []string{"canary.c/canary OK"}, group: "canary"},
		{name: "behind a split that only names", yaml: canaryOf(0, 10000, "") + `- {name: r, service: greeter, route: {rules: [{split: {destinations: [{weight: 10000, group: g}]}}]}}`,
			host: "v2", app: map[string]string{"pillion-group": "g"}, told: []string{"canary.c/canary OK"}, group: "g,canary"},
		{name: "of the service where a route leads", yaml: canaryOf(0, 10000, "") + `
- {name: r, service: greeter, route: {rules: [{to: {service: other}}]}}
- {name: o, service: other, split: {split: {destinations: [{weight: 10000, group: there}]}}}`,
			host: "other", told: []string{"o/there OK"}, group: "there", log: "r/1"},
		{name: "to another service", yaml: `
- {name: s, service: greeter, split: {split: {destinations: [{weight: 10000, service: other}]}}}
- {name: o, service: other, split: {split: {destinations: [{weight: 10000, group: there}]}}}`,
			host: "other", told: []string{"s/other OK"}, group: "other"},
		{name: "of all services", yaml: `- {name: s, service: "*", split: {split: {destinations: [{weight: 10000, group: a}]}}}`,
			host: "v1", told: []string{"s/a OK"}, group: "a"},
		{name: "of other methods", yaml: `- {name: s, service: greeter, methods: [a.B/D], split: {split: {destinations: [{weight: 10000, subset: v2}]}}}`, host: "v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Random: even}, instances: 2})
				r.versions(2)
				r.service("other", "o:1")
				o := r.observe(twoVersions + c.yaml)
				hosts := map[string]*scriptpeer.Host{"v1": r.net.Listen("a:1"), "v2": r.net.Listen("b:1"), "other": r.net.Listen("o:1")}
				r.Request(1, "/a.B/C", true, c.request...)
				f, p := request(t, hosts[c.host])
				for key, want := range c.app {
					if got := f.Get(key); got != want {
						t.Errorf("the app got %s: %q, want %q", key, got, want)
					}
				}
				time.Sleep(3 * time.Second)
				p.TrailersOnly(f.Stream, "0")
				if got := r.answer().String(); got != "HEADERS 1 :status=200 grpc-status=0 end" {
					t.Errorf("the caller got %s", got)
				}
				told := o.take()
				if !slices.Equal(told, c.told) {
					t.Errorf("observers were told %q, want %q", told, c.told)
				}
				if len(told) > 0 && o.took != 3*time.Second {
					t.Errorf("it took %v", o.took)
				}
				want := map[string]any{"group": c.group}
				if c.group == "" && len(c.told) > 0 {
					delete(want, "group")
				}
				if c.log != "" {
					want["route"] = c.log
				}
				r.logged(want)
				for _, one := range c.told {
					name, _, _ := strings.Cut(one, " ")
					of, group, _ := strings.Cut(name, "/")
					if n := metric(t, r.counters, "pillion_group_rpcs_total", "policy", of, "rule", "", "group", group, "grpc_code", "OK"); n != 1 {
						t.Errorf("%v RPCs of %s are counted", n, name)
					}
				}
			})
		})
	}
}

// How RPCs end is told as the caller sees it, once, whatever attempts there were.
func TestWhatObserversAreTold(t *testing.T) {
	canary := canaryOf(0, 10000, "sticky: {key: {metadata: user}},")
	again := "- {name: again, service: greeter, retry: {max_attempts: 3, initial_backoff: 10ms, max_backoff: 10ms, retryable_status_codes: [UNAVAILABLE], budget: {ratio: 1, min_per_second: 100}}}\n"
	type end struct {
		name, yaml string
		script     []reaction
		caller     []string
		told       []string
	}
	m := func(value string) []string { return []string{"pillion-measure-cost", value} }
	for _, c := range []end{
		{name: "trailers alone", script: []reaction{answers("0", m("1.5")...)}, caller: []string{answered}, told: []string{"canary.c/canary OK cost=1.5"}},
		{name: "trailers", script: []reaction{func(p *scriptpeer.Peer, id uint32) {
			p.Response(id, m("1")...)
			p.Trailers(id, "0", m("2")...)
		}}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end"}, told: []string{"canary.c/canary OK cost=2"}},
		{name: "a failure", script: []reaction{answers("13", m("1")...)}, caller: []string{"HEADERS 1 :status=200 grpc-status=13 end"}, told: []string{"canary.c/canary INTERNAL cost=1"}},
		{name: "of several attempts the last one's", yaml: again, script: []reaction{answers("14", m("1")...), answers("14"), answers("0", m("3")...)},
			caller: []string{answered}, told: []string{"canary.c/canary OK cost=3"}},
		{name: "none where that has none", yaml: again, script: []reaction{answers("14", m("1")...), answers("0")},
			caller: []string{answered}, told: []string{"canary.c/canary OK"}},
		{name: "all attempts fail", yaml: again, script: []reaction{answers("14", m("1")...), answers("14", m("2")...), answers("14", m("3")...)},
			caller: []string{"HEADERS 1 :status=200 grpc-status=14 end"}, told: []string{"canary.c/canary UNAVAILABLE cost=3"}},
		{name: "a failure in held headers", yaml: strings.Replace(again, "max_attempts: 3", "max_attempts: 3, hold_headers: true", 1),
			script: []reaction{func(p *scriptpeer.Peer, id uint32) {
				p.Response(id, m("1")...)
				p.Trailers(id, "14", m("2")...)
			}, func(p *scriptpeer.Peer, id uint32) {
				p.Response(id, m("3")...)
				p.Trailers(id, "0", m("4")...)
			}}, caller: []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end"}, told: []string{"canary.c/canary OK cost=4"}},
		{name: "hedges", yaml: "- {name: hedge, service: greeter, hedging: {max_attempts: 2, hedging_delay: 10ms}}\n",
			script: []reaction{later(time.Second, answers("0", m("1")...)), later(20*time.Millisecond, answers("0", m("2")...))},
			caller: []string{answered}, told: []string{"canary.c/canary OK cost=2"}},
		{name: "a reset", script: []reaction{resets(http2.ErrCodeInternal)}, caller: []string{"HEADERS 1 :status=200 grpc-status=13*"}, told: []string{"canary.c/canary INTERNAL"}},
		{name: "a deadline", yaml: "- {name: t, service: greeter, timeout: {default: 1s}}\n", script: []reaction{silent},
			caller: []string{"HEADERS 1 :status=200 grpc-status=4*"}, told: []string{"canary.c/canary DEADLINE_EXCEEDED"}},
		{name: "a sidecar that is overloaded", script: []reaction{answers("14", "pillion-flags", "OM"), answers("14", "pillion-flags", "OM")},
			caller: []string{"HEADERS 1 :status=200 grpc-status=14*"}, told: []string{"canary.c/canary UNAVAILABLE excused"}},
		{name: "no access there", script: []reaction{answers("7", "pillion-flags", "UAEX")},
			caller: []string{"HEADERS 1 :status=200 grpc-status=7*"}, told: []string{"canary.c/canary PERMISSION_DENIED excused"}},
		{name: "our own fault", yaml: "- {name: f, service: greeter, fault: {abort: {status: {code: ABORTED}, fraction: 10000}}}\n",
			caller: []string{"HEADERS 1 :status=200 grpc-status=10*"}, told: []string{"canary.c/canary ABORTED excused"}},
		{name: "nobody there", yaml: "- {name: v, service: \"*\", subsets: {subsets: {v3: {meta: {version: v3}}}}}\n- {name: s, service: greeter, split: {order: 1, match: {metadata: [{key: user, present: true}]}, split: {destinations: [{weight: 10000, group: nobody, subset: v2}]}}}\n",
			script: []reaction{answers("0")}, caller: []string{answered}, told: []string{"s/nobody OK"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Random: even}, instances: 4})
				r.versions(2)
				o := r.observe(strings.Replace(twoVersions, "v2: {meta: {version: v2}}", "v2: {}", 1) + canary + c.yaml)
				hosts := r.listen(4)
				r.Request(1, "/a.B/C", true, "user", "alice")
				_, caller, _ := r.play(hosts, c.script...)
				expect(t, "the caller got", caller, c.caller)
				if told := o.take(); !slices.Equal(told, c.told) {
					t.Errorf("observers were told %q, want %q", told, c.told)
				}
				for group, unit := range o.units {
					rpc := policy.RPC{Path: "/a.B/C", Random: even, Fields: []hpack.Field{{Name: "user", Value: "alice"}}}
					d := policy.Decision{Service: "greeter"}
					for _, g := range r.router.policies.Load().Service("greeter").Splits("/a.B/C").Decide(&rpc, &d, nil, nil) {
						if g.Name == group && g.Unit != unit {
							t.Errorf("unit of %s is %d, want %d", group, unit, g.Unit)
						}
					}
				}
			})
		})
	}
}

// A caller that goes away, or breaks the protocol, says nothing about where its RPC was.
func TestCallersThatGoAwayAreExcused(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}})
		o := r.observe(`
- {name: s, service: greeter, split: {split: {destinations: [{weight: 10000, group: g}]}}}
- {name: l, service: greeter, rate_limit: {limits: [{requests: 2, interval: 3600s}]}}
`)
		a := r.net.Listen("a:1")
		r.ask(a, 1, true)
		r.Reset(1, http2.ErrCodeCancel)
		synctest.Wait()
		if got, want := o.take(), []string{"s/g CANCELLED excused"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		// Its deadline was about to pass: that is why it went.
		r.ask(a, 3, true, "grpc-timeout", "1S")
		time.Sleep(995 * time.Millisecond)
		r.Reset(3, http2.ErrCodeCancel)
		synctest.Wait()
		if got, want := o.take(), []string{"s/g DEADLINE_EXCEEDED"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		// Neither does one that a limit of ours refuses.
		r.Request(5, "/a.B/C", true)
		if got, want := r.answer().Get("grpc-status")+" "+strings.Join(o.take(), ","), "8 s/g RESOURCE_EXHAUSTED excused"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// What a split policy has decided is not decided again when the service has been looked
// up to which it sends RPCs.
func TestSplitPoliciesDecideOnce(t *testing.T) {
	simulated(t, func(t *testing.T) {
		draws := 0
		r := newRig(t, options{Config: Config{Random: func() uint64 {
			draws++
			return rand.New(rand.NewPCG(uint64(draws), 9)).Uint64()
		}}})
		other := r.service("other", "o:1")
		o := r.observe(`- {name: s, service: greeter, split: {split: {destinations: [{weight: 5000, group: here}, {weight: 5000, service: other}]}}}`)
		hosts := []*scriptpeer.Host{r.net.Listen("a:1"), r.net.Listen("o:1")}
		groups := map[string]int{}
		for i := range 40 {
			r.router.mu.Lock()
			r.router.asked = map[string]bool{"other": true}
			r.router.mu.Unlock()
			id := uint32(2*i + 1)
			before := draws
			r.Request(id, "/a.B/C", true)
			synctest.Wait()
			if draws != before+1 {
				t.Fatalf("%d draws for an RPC", draws-before)
			}
			r.router.reveal("other", other)
			synctest.Wait()
			for _, h := range hosts {
				for _, p := range h.Conns() {
					for _, f := range p.Frames() {
						if f.Type == http2.FrameHeaders {
							p.TrailersOnly(f.Stream, "0")
						}
					}
				}
			}
			if got := r.answer().Get("grpc-status"); got != "0" {
				t.Fatalf("status %s", got)
			}
			told := o.take()
			if len(told) != 1 || draws != before+1 {
				t.Fatalf("%q after %d draws", told, draws-before)
			}
			groups[told[0]]++
		}
		if len(groups) != 2 {
			t.Errorf("%v", groups)
		}
	})
}

// Where RPCs arrive, split policies do nothing.
func TestSplitPoliciesAreForRPCsThatAreMade(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Random: even}, instances: 2})
		r.versions(2)
		o := r.observe(twoVersions + canaryOf(0, 10000, ""))
		a := r.net.Listen("a:1")
		r.ask(a, 1, true).TrailersOnly(1, "0", "pillion-measure-x", "1")
		if got := r.answer().String(); !strings.HasPrefix(got, "HEADERS 1 :status=200 grpc-status=0") || len(o.take()) > 0 {
			t.Errorf("the caller got %s", got)
		}
	})
}

// Random RPCs under retries, two experiments and a canary, some forced: each ends as the
// script says, and is told to the groups that a set says by itself.
func TestGroupsAreToldAsTheirModel(t *testing.T) {
	const yaml = twoVersions + `
- {name: again, service: greeter, retry: {max_attempts: 3, initial_backoff: 10ms, max_backoff: 10ms, retryable_status_codes: [UNAVAILABLE], budget: {ratio: 1, min_per_second: 100}}}
- name: experiment.one
  service: greeter
  split:
    order: 1000
    ranges: [{key: {metadata: user}, seed: layer, start: 0, end: 6000}]
    split: {allow_force: true, group_key: x-one, sticky: {key: {metadata: user}, seed: one}, destinations: [{weight: 5000, group: blue}, {weight: 5000, group: red}]}
- name: experiment.two
  service: greeter
  split:
    order: 1000
    match: {metadata: [{key: user, present: true}]}
    split: {group_key: x-two, sticky: {key: {metadata: user}, seed: two}, destinations: [{weight: 5000, group: plain}, {weight: 5000, group: new, subset: v2}]}
- name: canary.c
  service: greeter
  split:
    order: 2000
    split: {sticky: {key: {metadata: user}, seed: c, missing: stable}, destinations: [{weight: 7000, group: stable, subset: v1}, {weight: 3000, group: canary, subset: v2}]}
`
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 17))
				r := newRig(t, options{Config: Config{Random: rnd.Uint64}, instances: 2})
				r.versions(2)
				o := r.observe(yaml)
				hosts := r.listen(2)
				splits := r.router.policies.Load().Service("greeter").Splits("/a.B/C")
				seen := map[string]int{}
				for i := range 40 {
					id := uint32(2*i + 1)
					var pairs []string
					if rnd.IntN(5) > 0 {
						pairs = append(pairs, "user", fmt.Sprint("user-", rnd.IntN(50)))
					}
					if rnd.IntN(4) == 0 {
						pairs = append(pairs, "pillion-force", []string{"red", "blue", "canary"}[rnd.IntN(3)])
					}
					rpc := policy.RPC{Path: "/a.B/C", Random: even}
					for j := 0; j < len(pairs); j += 2 {
						rpc.Fields = append(rpc.Fields, hpack.Field{Name: pairs[j], Value: pairs[j+1]})
					}
					d := policy.Decision{Service: "greeter"}
					groups := splits.Decide(&rpc, &d, nil, nil)

					code, measure := codes.OK, ""
					var script []reaction
					for n := range 3 {
						code, measure = codes.Code([]int{0, 0, 14, 14, 5}[rnd.IntN(5)]), ""
						var with []string
						if rnd.IntN(2) == 0 {
							with = []string{"pillion-measure-n", fmt.Sprint(n), "pillion-measure-bad", "x"}
							measure = fmt.Sprint(" n=", n)
						}
						script = append(script, answers(fmt.Sprint(int(code)), with...))
						if code != codes.Unavailable {
							break
						}
					}
					r.Request(id, "/a.B/C", true, pairs...)
					attempts, caller := r.react(hosts, script)
					if want := fmt.Sprintf("HEADERS %d :status=200 grpc-status=%d end", id, code); len(caller) != 1 || caller[0] != want {
						t.Fatalf("the caller got %q, want %s", caller, want)
					}
					host := map[string]string{"v1": "a:1", "v2": "b:1"}[d.Subset]
					for _, a := range attempts {
						if a.host != host || len(attempts) != len(script) {
							t.Fatalf("%v, want %d at %s", attempts, len(script), host)
						}
					}
					var want []string
					for _, g := range groups {
						text := map[string]string{"blue": "experiment.one", "red": "experiment.one", "plain": "experiment.two", "new": "experiment.two"}[g.Name]
						if text == "" {
							text = "canary.c"
						}
						text += "/" + g.Name + " " + wire.StatusName(code)
						if g.Forced {
							text += " forced"
						}
						want = append(want, text+measure)
						seen[g.Name]++
						if o.units[g.Name] != g.Unit {
							t.Fatalf("the unit of %s is %d, want %d", g.Name, o.units[g.Name], g.Unit)
						}
					}
					if got := o.take(); !slices.Equal(got, want) {
						t.Fatalf("%q: observers were told %q, want %q", pairs, got, want)
					}
				}
				if len(seen) < 5 {
					t.Errorf("only %v came", seen)
				}
			})
		})
	}
}

// react has instances react to an RPC's attempts until the caller has its answer. It is
// play where nothing else can happen, and so costs less.
func (r *rig) react(hosts []*scriptpeer.Host, script []reaction) (attempts []seen, caller []string) {
	r.t.Helper()
	for range 100 {
		synctest.Wait()
		for i, h := range hosts {
			for _, p := range h.Conns() {
				for _, f := range p.Frames() {
					if f.Type == http2.FrameHeaders {
						attempts = append(attempts, seen{host: address(i)})
						script[len(attempts)-1](p, f.Stream)
					}
				}
			}
		}
		synctest.Wait()
		if caller = r.Lines(); len(caller) > 0 {
			return attempts, caller
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatal("the caller got no answer")
	return nil, nil
}

// An RPC that a route sends to a part of a service of which nothing is said fails, as
// Explain says it does.
func TestASubsetThatNobodySaysAnythingOf(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}})
		r.service("other", "o:1")
		r.obey(`
- {name: r, service: greeter, route: {rules: [{to: {service: other, subset: v1}}]}}
`)
		o := r.net.Listen("o:1")
		r.Request(1, "/a.B/C", true)
		if f := r.answer(); f.Get("grpc-status") != "14" || !strings.Contains(f.Get("grpc-message"), `subset "v1"`) {
			t.Errorf("the caller got %v", f.Fields)
		}
		quiet(t, o)
	})
}

// turnstile counts what observers are told, from many goroutines.
type turnstile struct{ rpcs, wrong atomic.Int64 }

func (c *turnstile) Ended(o *telemetry.Outcome) {
	c.rpcs.Add(1)
	if o.Took < 0 || o.Unit != 0 || o.Forced {
		c.wrong.Add(1)
	}
}
