package configyaml

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// documents are in order, and say most of what may be said.
const documents = `policies:
- name: parts
  service: checkout
  subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
canaries:
- name: checkout-v2
  service: checkout
  methods: [shop.Checkout]
  stable: v1
  canary: v2
  steps:
  - {weight: 1000, hold: 30s, min_rpcs: 50}
  - {weight: 5000}
  - {weight: 5000, manual: true}
  sticky: {metadata: user}
  guards:
    errors: [{}, {max: 0.01}]
    latency: [{percentile: 95}]
    ejections: {}
  hooks: [{name: chat, command: tell}, {name: log, service: audit}]
experiments:
- name: New-Price
  service: checkout
  unit: {cookie: id}
  variants: [{name: old, weight: 5000}, {name: new, weight: 5000, subset: v2}]
  forced: {tester: new}
  layer: {name: prices, end: 2000}
  start: 2026-01-31T15:04:05Z
  end: "2026-02-28T15:04:05+01:00"
  measures: [{reported: revenue, per_unit: sum}, {success: {}}, {latency: {}}]
`

func TestDocuments(t *testing.T) {
	t.Parallel()
	f, err := ParseDocuments("d.yaml", []byte(documents))
	if err != nil {
		t.Fatal(err)
	}
	if f.Written.GetCanaries()[0].GetSteps()[1].Hold != nil {
		t.Error("the defaults are in what was written")
	}
	c := f.Effective.GetCanaries()[0]
	if got := c.GetSteps()[1]; got.GetHold().AsDuration().String() != "1m0s" || got.GetMinRpcs() != 100 {
		t.Errorf("%v", got)
	}
	e := f.Effective.GetExperiments()[0]
	if e.GetEnd().AsTime().Hour() != 14 || e.GetSalt() != "New-Price" || e.GetGroupKey() != "pillion-experiment-new-price" {
		t.Errorf("%v", e)
	}
	if again := EffectiveDocuments(f.Effective); !proto.Equal(again, f.Effective) {
		t.Errorf("filling in again changed %v to %v", f.Effective, again)
	}
	if got, want := f.Locate("canaries[0].steps[1].weight"), "d.yaml:13:14: canaries[0].steps[1].weight"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What holds where nothing is said, where it depends on something else.
func TestDefaultsOfCanaries(t *testing.T) {
	t.Parallel()
	shift := EffectiveCanary(&configv1.Canary{Steps: []*configv1.CanaryStep{{Weight: 1}}})
	if s := shift.GetSteps()[0]; s.MinRpcs == nil || s.GetMinRpcs() != 0 {
		t.Errorf("without guards RPCs are waited for: %v", s)
	}
	half := 0.5
	c := EffectiveCanary(&configv1.Canary{Guards: &configv1.CanaryGuards{
		Errors:  []*configv1.ErrorGuard{{}, {Max: &half}, {Name: "x"}},
		Latency: []*configv1.LatencyGuard{{}, {}},
	}})
	g := c.GetGuards()
	if a, b := g.GetErrors()[0], g.GetErrors()[1]; a.GetAgainstStable() != 1 || a.Max != nil || b.AgainstStable != nil || b.GetMax() != half {
		t.Errorf("%v %v", a, b)
	}
	for i, want := range []string{"errors", "errors2", "x"} {
		if got := g.GetErrors()[i].GetName(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := g.GetLatency()[1].GetName(); got != "latency2" {
		t.Error(got)
	}
	if got := strings.Join(g.GetErrors()[0].GetCodes(), " "); got != "UNKNOWN DEADLINE_EXCEEDED UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS" {
		t.Error(got)
	}
	if EffectiveCanary(nil) != nil || EffectiveExperiment(nil) != nil || EffectivePolicy(nil) != nil {
		t.Error("defaults of nothing")
	}
}

func TestDefaultMeasures(t *testing.T) {
	t.Parallel()
	e := EffectiveExperiment(&configv1.Experiment{})
	if m := e.GetMeasures(); len(m) != 2 || m[0].GetName() != "success" || m[0].GetBetter() != "higher" ||
		m[1].GetName() != "latency" || m[1].GetBetter() != "lower" || m[1].GetLatency().GetCap().AsDuration().String() != "1m0s" ||
		m[0].GetMinEffect() != 0.01 || m[1].GetMinEffect() != 0.05 {
		t.Errorf("%v", m)
	}
	e = EffectiveExperiment(&configv1.Experiment{Measures: []*configv1.Measure{{Of: &configv1.Measure_Reported{Reported: "revenue"}}}})
	if m := e.GetMeasures()[0]; m.GetName() != "revenue" || m.GetBetter() != "higher" || m.GetPerUnit() != "mean" || m.GetMinEffect() != 0.05 {
		t.Errorf("%v", m)
	}
}

func TestWrongDocuments(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ old, new, want string }{
		"a field that there is not": {"stable: v1", "stabel: v1",
			`9:3: canaries[0]: unknown field "stabel": did you mean "stable"?`},
		"something else than documents": {"policies:\n", "services: {}\npolicies:\n",
			`1:1: unknown field "services": known here: policies, canaries, experiments`},
		"out of range": {"weight: 1000", "weight: 0",
			`12:14: canaries[0].steps[0].weight: is 0, but must be greater than or equal to 1 and less than or equal to 10000`},
		"no time": {"start: 2026-01-31T15:04:05Z", "start: tomorrow",
			`28:10: experiments[0].start: "tomorrow" is not a time: write date, time and zone, such as 2026-01-31T15:04:05Z or 2026-01-31T16:04:05+01:00`},
		"a block as a time": {"start: 2026-01-31T15:04:05Z", "start: {seconds: 1}",
			`28:10: experiments[0].start: is a block of names with values, but must be a time such as 2026-01-31T15:04:05Z`},
		"one subset twice": {"canary: v2", "canary: v1",
			`10:11: canaries[0].canary: "v1" is the stable subset too: name the one that is to have the RPCs`},
		"a share that falls": {"- {weight: 5000}\n", "- {weight: 500}\n",
			`13:14: canaries[0].steps[1].weight: 500 is less than the step's before, 1000: a canary's share only rises`},
		"guards of nothing": {"    errors: [{}, {max: 0.01}]\n    latency: [{percentile: 95}]\n    ejections: {}\n", "    false_alarm: 0.1\n",
			`17:5: canaries[0].guards: watch nothing: write errors, latency or ejections, or remove the block for a shift of traffic without guards`},
		"guards of one name": {"{percentile: 95}", "{name: errors}",
			`18:22: canaries[0].guards.latency[0].name: "errors" is canaries[0].guards.errors[0].name already: give it another name`},
		"hooks of one name": {"name: log, service", "name: chat, service",
			`20:47: canaries[0].hooks[1].name: "chat" is canaries[0].hooks[0].name already: give it another name`},
		"a code that there is not": {"errors: [{},", "errors: [{codes: [INTERNL]},",
			`17:23: canaries[0].guards.errors[0].codes[0]: "INTERNL" is not known: did you mean "INTERNAL"?`},
		"sticky by chance": {"  guards:\n", "  match: {fraction: 5000}\n  guards:\n",
			`16:21: canaries[0].match.fraction: is chosen anew for each RPC, so that those with the same key would go both ways: remove it, or sticky`},
		"one name of two kinds": {"name: New-Price", "name: parts",
			`22:9: experiments[0].name: "parts" is policies[0] already: give it another name`},
		"a name that is kept": {"name: parts", "name: canary.parts",
			`2:9: policies[0].name: "canary.parts": names that begin with "canary." are for what Pillion makes itself: choose another`},
		"too much": {"weight: 5000, subset: v2", "weight: 5001, subset: v2",
			`25:13: experiments[0].variants: have weights of 10001 in all, but they are shares of 10000`},
		"variants of one name": {"name: new, weight", "name: old, weight",
			`25:48: experiments[0].variants[1].name: "old" is experiments[0].variants[0].name already: give it another name`},
		"forced to nowhere": {"tester: new", "tester: newer",
			`26:20: experiments[0].forced["tester"]: "newer" is not among the variants`},
		"an empty layer": {"end: 2000", "start: 2000, end: 2000",
			`27:43: experiments[0].layer.end: 2000 is not beyond start, 2000: the part is empty`},
		"the end first": {"2026-02-28", "2025-02-28",
			`29:8: experiments[0].end: 2025-02-28T14:04:05Z is not after start, 2026-01-31T15:04:05Z`},
		"eligible by chance": {"  forced:", "  eligible: {fraction: 5000}\n  forced:",
			`26:24: experiments[0].eligible.fraction: is chosen anew for each RPC, so that a unit would be in and out of the experiment: write a layer instead`},
		"measures of one name": {"{success: {}}", "{name: revenue, success: {}}",
			`30:57: experiments[0].measures[1].name: "revenue" is experiments[0].measures[0].name already: give it another name`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(documents, test.old) {
				t.Fatalf("there is no %q", test.old)
			}
			_, err := ParseDocuments("d.yaml", []byte(strings.Replace(documents, test.old, test.new, 1)))
			if err == nil {
				t.Fatal("no error")
			}
			// What is missing then is another line.
			if !strings.Contains("\n"+err.Error()+"\n", "\nd.yaml:"+test.want+"\n") {
				t.Errorf("got\n%v\nwant\nd.yaml:%s", err, test.want)
			}
		})
	}
}

// What comes from a store is checked as what comes from a file.
func TestDocumentsFromAStore(t *testing.T) {
	t.Parallel()
	f, err := ParseDocuments("d.yaml", []byte(documents))
	if err != nil {
		t.Fatal(err)
	}
	p, c, e := f.Effective.GetPolicies()[0], f.Effective.GetCanaries()[0], f.Effective.GetExperiments()[0]
	for _, err := range []error{CheckPolicy(p), CheckCanary(c), CheckExperiment(e)} {
		if err != nil {
			t.Error(err)
		}
	}
	p.Name, c.Stable, e.Variants[0].Weight = "experiment.x", "v2", 1
	for want, err := range map[string]error{
		`name: "experiment.x": names that begin with "experiment." are for what Pillion makes itself: choose another`: CheckPolicy(p),
		`canary: "v2" is the stable subset too: name the one that is to have the RPCs`:                                CheckCanary(c),
		`variants: have weights of 5001 in all, but they are shares of 10000`:                                         CheckExperiment(e),
		`name: is missing`: CheckPolicy(&configv1.Policy{Service: "a", Kind: &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{}}}),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	const rest = "service: {name: a, port: 1}\noutbound: {}\ninbound: {}\nregistry: {consul: {cache_dir: cache}}\n"
	dir := t.TempDir()
	path := filepath.Join(dir, "p.yaml")
	read := func(text string) (*configv1.Bootstrap, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadBootstrap(path)
	}
	b, err := read(rest + "control: {}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c := b.GetControl(); c.GetDir() != "" || !c.GetConsulEntries() || !c.GetCandidate() || c.GetStateDir() != filepath.Join(dir, "cache") || c.GetRecording().GetOneIn() != 100 {
		t.Errorf("%v", c)
	}
	b, err = read("outbound: {}\nregistry: {static: {upstreams: {a: {addresses: [\"b:1\"]}}}}\ncontrol: {dir: docs, state_dir: state}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c := b.GetControl(); c.GetDir() != filepath.Join(dir, "docs") || c.GetStateDir() != filepath.Join(dir, "state") || c.GetConsulEntries() || c.GetCandidate() {
		t.Errorf("%v", c)
	}
	for text, want := range map[string]string{
		strings.Replace(rest, "consul: {cache_dir: cache}", "file: {path: m}", 1) + "control: {}":                             "5:10: control: has no place for the documents: write dir, or registry.consul for Consul's KV",
		strings.Replace(rest, "consul: {cache_dir: cache}", "file: {path: m}", 1) + "control: {dir: d, consul_entries: true}": "5:35: control.consul_entries: needs Consul: write registry.consul, or false here",
		strings.Replace(rest, "inbound: {}", "inbound: {listen: \"unix:///in\"}", 1) + "control: {candidate: true}":           "5:22: control.candidate: needs an inbound that others can reach: write inbound with a host:port, or false here",
		rest + "control: {dir: d, state_dir: ./d}":                                                                            "5:30: control.state_dir: " + filepath.Join(dir, "d") + " is the folder of the documents (control.dir): write another",
		rest + "control: {commands: [{name: a, run: [b]}, {name: a, run: [c]}]}":                                              `5:50: control.commands[1].name: "a" is control.commands[0].name already: give it another name`,
		rest + "control: {commands: [{name: a, run: [\"\", b]}]}":                                                             "5:38: control.commands[0].run[0]: is empty: write the program",
		rest + "control: {recording: {one_in: 0}}":                                                                            "5:31: control.recording.one_in: is 0, but must be greater than or equal to 1 and less than or equal to 1000000",
	} {
		if _, err := read(text); err == nil || err.Error() != path+":"+want {
			t.Errorf("got  %v\nwant %s:%s", err, path, want)
		}
	}
}

// A text is a text, even where it looks like what a mapping is merged by.
func TestMergeKeyAsText(t *testing.T) {
	t.Parallel()
	mesh, err := ParseMesh("m.yaml", []byte("services: {a: {endpoints: [{address: \"b:1\", tags: [<<]}]}}\n"))
	if err != nil || mesh.GetServices()["a"].GetEndpoints()[0].GetTags()[0] != "<<" {
		t.Errorf("%v %v", mesh, err)
	}
	if _, err := ParseMesh("m.yaml", []byte("services: {<<: {a: {}}}\n")); err == nil || !strings.Contains(err.Error(), "aliases (*name, <<) are not supported") {
		t.Error(err)
	}
}

func FuzzParseDocuments(f *testing.F) {
	for _, seed := range append(fuzzSeeds, documents, "canaries: [{}]", "canaries: [null]", "experiments: [{}, 1]", "canaries: [{steps: []}]",
		"experiments: [{start: 2026-99-99, end: 10000-01-01T00:00:00Z}]") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := ParseDocuments("p.yaml", data)
		if err != nil {
			checkReport(t, err)
			return
		}
		again, err := ParseDocuments("p.yaml", marshal(t, read.Written))
		if err != nil || !proto.Equal(again.Written, read.Written) {
			t.Fatalf("%v: %v\nbecame, by\n%s\n%v", err, read.Written, marshal(t, read.Written), again)
		}
	})
}
