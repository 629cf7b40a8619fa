package experiment

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	registry "github.com/pillion-proxy/pillion/registry/consul"
)

// documents are two experiments that share no user: one with an effect, whose variants are
// versions, and one without, whose variants only have names. Their parts of the layer are
// all of it, so each user but those of the holdout is in exactly one.
const documents = `
policies:
- name: shop-versions
  service: shop
  subsets: {default: v1, subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
experiments:
- name: button
  service: shop
  unit: {metadata: x-user}
  variants: [{name: blue, weight: 5000, subset: v1}, {name: green, weight: 5000, subset: v2}]
  forced: {tester-green: green, tester-blue: blue}
  allow_force: true
  layer: {name: checkout, end: 5000}
  holdout: 1000
  measures: [{success: {}}, {latency: {cap: 5s}}, {reported: revenue}, {reported: rpcs, per_unit: sum}]
- name: wording
  service: shop
  unit: {cookie: session}
  variants: [{name: long, weight: 5000}, {name: short, weight: 5000}]
  forced: {tester-short: short}
  layer: {name: checkout, start: 5000}
  holdout: 1000
  measures: [{success: {}}, {latency: {cap: 5s}}, {reported: revenue}, {reported: rpcs, per_unit: sum}]
`

// What a report says of a comparison.
const better, worse, open, negligible = "better", "worse", "open", "negligible"

// TestExperiments takes two experiments from their plan to their report, while a sidecar is
// restarted, and Consul is away for a while.
func TestExperiments(t *testing.T) {
	t.Parallel()
	agent := consul.Start(t)
	for _, version := range []string{"v1", "v1", "v2"} {
		a := startApp(t, version)
		if err := agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: a.address, Name: service, Address: "127.0.0.1", Port: a.port, Meta: map[string]string{"version": version},
		}); err != nil {
			t.Fatal(err)
		}
	}
	store, err := registry.NewStore(registry.Config{Address: agent.Address}, registry.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.CloseIdleConnections)
	m := startMesh(t, store, []string{"--consul", agent.Address},
		map[string]any{"consul": map[string]any{"address": agent.Address, "cache_dir": filepath.Join(t.TempDir(), "cache")}},
		map[string]any{"consul_entries": false})

	file := write(t, documents)
	planned(t, m, file)
	m.pillion(t, "experiment", "start", button, "-f", file, "-m", "does green sell better?")
	m.pillion(t, "experiment", "start", wording, "-m", "an A/A test")
	if said := m.pillion(t, "experiment", "status"); strings.Count(said, "running") != 2 {
		t.Errorf("status says\n%s", said)
	}

	elected := m.awaitElected(t, -1)
	restarted, other := (elected+1)%sidecars, (elected+2)%sidecars
	c := startCallers(t, m)
	all := append(users(800), testers()...)
	// In three rounds, each user is at each sidecar once.
	at := func(round int) func(u user) int { return func(u user) int { return (u.number + round) % sidecars } }
	c.round(400, all, at(0))

	// While a sidecar is restarted, callers go by the others.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.round(400, all, func(u user) int {
			if at(1)(u) == restarted {
				return -1
			}

			return at(1)(u)
		})
	}()
	m.end(t, restarted)
	m.begin(t, restarted)
	<-ended
	agent.Kill()
	c.round(400, all, func(u user) int {
		if at(1)(u) == restarted {
			return restarted
		}

		return -1
	})
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		c.round(400, all, at(2))
	}()
	agent.Restart(t)
	<-ended

	divided(t, c.outcomes())
	compared(t, m.awaitComplete(t, c, button, restarted))
	alike(t, m.awaitComplete(t, c, wording, other))
	ends(t, m, c)
}

// planned looks at what is said before an experiment.
func planned(t *testing.T, m *mesh, file string) {
	t.Helper()

	args := []string{"experiment", "plan", button, "-f", file, "--units-per-day", "10000",
		"--baseline", "revenue=10,2", "--baseline", "success=0.95", "--baseline", "latency=0.01,0.01", "--baseline", "rpcs=3,1"}
	if said := m.pillion(t, args...); !strings.Contains(said, "revenue") {
		t.Errorf("the plan says\n%s", said)
	}
	p := read[plan](t, m.pillion(t, append(args, "-o", "json")...))
	// Of half of all users, but for the holdout: 4,500 a day.
	if p.Part < 0.4499 || p.Part > 0.4501 || len(p.Measures) != 4 || p.Units == 0 || p.Seconds == 0 {
		t.Errorf("the plan is %+v", p)
	}
}

// divided holds that each user was always in the same variant, on all sidecars, that the
// experiments have no user in common, that the holdout is in neither, and that those who
// are forced are where they were to be.
func divided(t *testing.T, seen []outcome) {
	t.Helper()

	forced := map[int]map[string]string{
		100001: {button: "green"}, 100002: {button: "blue"}, 100003: {wording: "short"}, 100004: {button: "green"},
	}
	was := map[int]outcome{}
	count := map[string]int{}
	places := map[int]map[int]bool{}
	for _, o := range seen {
		v := o.answer.Variants
		if places[o.user.number] == nil {
			places[o.user.number] = map[int]bool{}
		}
		places[o.user.number][o.sidecar] = true
		before, known := was[o.user.number]
		switch was[o.user.number] = o; {
		case known && (before.answer.Version != o.answer.Version || !same(before.answer.Variants, v)):
			t.Errorf("%s is in %v (%s) at sidecar %d, and in %v (%s) at %d", o.user.name,
				before.answer.Variants, before.answer.Version, before.sidecar, v, o.answer.Version, o.sidecar)
		case (o.answer.Version == "v2") != (v[button] == "green"):
			t.Errorf("%s is in %v, at %s", o.user.name, v, o.answer.Version)
		case forced[o.user.number] != nil && !same(v, forced[o.user.number]):
			t.Errorf("%s%s is in %v", o.user.name, o.user.session, v)
		case len(v) > 1 && !o.user.notCount:
			t.Errorf("%s is in two experiments: %v", o.user.name, v)
		case known || o.user.notCount:
		case len(v) == 0:
			count["holdout"]++
		default:
			count[v[button]+v[wording]]++
		}
	}
	t.Logf("%d RPCs, users by variant: %v", len(seen), count)
	for user, at := range places {
		if len(at) != sidecars {
			t.Errorf("user %d was at the sidecars %v only", user, at)
		}
	}
	// They are always the same ones, so these bounds hold or do not.
	for _, part := range []string{"blue", "green", "long", "short"} {
		if count[part] < 145 || count[part] > 215 {
			t.Errorf("%d users are in %s, want about 180", count[part], part)
		}
	}
	if count["holdout"] < 50 || count["holdout"] > 110 {
		t.Errorf("%d users are in no experiment, want about 80", count["holdout"])
	}
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if b[key] != value {
			return false
		}
	}

	return true
}

// compared holds that the effect is found, and is as large as it is.
func compared(t *testing.T, a *analysis) {
	t.Helper()

	for _, c := range comparisons(t, a) {
		t.Logf("%s: %+.4g, %+.4g to %+.4g, p=%.2g: %s", c.name, c.Difference, c.Interval.Low, c.Interval.High, c.Corrected, c.Verdict)
		// Green is one instance and blue are two: how fast they are may differ in truth.
		want, claimed := 0.0, c.Verdict == better || c.Verdict == worse
		switch c.name {
		case "revenue":
			want = effect
			if c.Verdict != better {
				t.Errorf("of revenue it is said that green is %s", c.Verdict)
			}
		case "latency":
			continue
		default:
			if claimed {
				t.Errorf("of %s it is said that green is %s", c.name, c.Verdict)
			}
		}
		if c.Interval.Low > want || c.Interval.High < want {
			t.Errorf("%s: %v is not in the interval from %v to %v", c.name, want, c.Interval.Low, c.Interval.High)
		}
	}
	if width := measureOf(t, a, "revenue").Comparisons[0].Interval; width.High-width.Low > 2*effect {
		t.Errorf("an interval from %v to %v covers anything", width.Low, width.High)
	}
	unalarmed(t, a)
}

// alike holds that nothing is claimed of variants that are alike.
func alike(t *testing.T, a *analysis) {
	t.Helper()

	for _, c := range comparisons(t, a) {
		t.Logf("%s: %+.4g, %+.4g to %+.4g, p=%.2g: %s", c.name, c.Difference, c.Interval.Low, c.Interval.High, c.Corrected, c.Verdict)
		if c.Verdict != open && c.Verdict != negligible {
			t.Errorf("of %s it is said that short is %s", c.name, c.Verdict)
		}
		if c.Interval.Low > 0 || c.Interval.High < 0 {
			t.Errorf("%s: 0 is not in the interval from %v to %v", c.name, c.Interval.Low, c.Interval.High)
		}
	}
	unalarmed(t, a)
}

// named is a comparison and its measure.
type named struct {
	comparison

	name string
}

func comparisons(t *testing.T, a *analysis) (list []named) {
	t.Helper()

	if len(a.Measures) != 4 {
		t.Fatalf("%s: %d measures", a.Name, len(a.Measures))
	}
	for _, m := range a.Measures {
		list = append(list, named{m.Comparisons[0], m.Name})
	}

	return list
}

// unalarmed holds that units are divided as the weights say, and seen by all.
func unalarmed(t *testing.T, a *analysis) {
	t.Helper()

	if a.SampleRatio.Mismatch || a.SampleRatio.P < 0.01 || a.Sidecars != sidecars {
		t.Errorf("%s: %+v, counted by %d sidecars", a.Name, a.SampleRatio, a.Sidecars)
	}
}

// ends stops the experiments, and holds that what they have come to stays.
func ends(t *testing.T, m *mesh, c *callers) {
	t.Helper()

	save := filepath.Join(t.TempDir(), "report.html")
	before := m.report(t, button, 0)
	m.pillion(t, "experiment", "stop", button, "-m", "green it is")
	m.pillion(t, "experiment", "stop", wording, "-m", "as it should be")
	// Nobody is asked: it is in the store.
	nobody := []string{"--admin", "127.0.0.1:1"}
	text := m.pillion(t, append([]string{"experiment", "report", button}, nobody...)...)
	for _, part := range []string{"button", "revenue", "green", "better", "ended", "counted by 3 sidecars", "divided as the weights say"} {
		if !strings.Contains(text, part) {
			t.Errorf("the report has no %q:\n%s", part, text)
		}
	}
	t.Log(text)
	for _, name := range []string{button, wording} {
		after := read[analysis](t, m.pillion(t, append([]string{"experiment", "report", name, "-o", "json"}, nobody...)...))
		if why := differs(after, c.sumsOf(name)); why != "" || after.Phase != "ended" {
			t.Errorf("after the end of %s (%s): %s", name, after.Phase, why)
		}
		if name == button {
			was, is := measureOf(t, before, "revenue").Comparisons[0], measureOf(t, after, "revenue").Comparisons[0]
			if math.Abs(was.Interval.Low-is.Interval.Low) > 1e-6 || was.Verdict != is.Verdict {
				t.Errorf("before the end it was %+v, and after it is %+v", was, is)
			}
		}
	}
	m.pillion(t, append([]string{"experiment", "report", button, "-o", "html", "--save", save}, nobody...)...)
	page, err := os.ReadFile(save)
	if err != nil {
		t.Fatal(err)
	}
	standsAlone(t, string(page))
	history := m.pillion(t, "experiment", "history", button)
	for _, part := range []string{"running", "ended", "does green sell better?", "green it is"} {
		if !strings.Contains(history, part) {
			t.Errorf("the history has no %q:\n%s", part, history)
		}
	}
	// Nobody is divided any more, by any sidecar.
	consul.Eventually(t, "all go where the routes say", func() bool {
		last := startCallers(t, m)
		last.round(1000, users(30), func(u user) int { return u.number % sidecars })
		for _, o := range last.outcomes() {
			if len(o.answer.Variants) > 0 || o.answer.Version != "v1" {
				return false
			}
		}

		return true
	})
}
