package plan

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func policies(t *testing.T, yaml string) []*configv1.Policy {
	t.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return mesh.GetPolicies()
}

func documentsOf(list []*configv1.Policy, of []*configv1.Policy) (docs []*Document) {
	for _, one := range of {
		var found *Document
		for _, p := range list {
			if p.GetName() == one.GetName() {
				found = &Document{Kind: "policy", Name: p.GetName(), Service: p.GetService(), Body: p}
			}
		}
		docs = append(docs, found)
	}
	return docs
}

const before = `
policies:
- name: versions
  service: greeter
  subsets: {default: v1, subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
- name: routes
  service: greeter
  route:
    rules:
    - name: beta
      match: {metadata: [{key: x-beta, exact: "yes"}], callers: [web]}
      to: {subset: v2}
    - name: share
      split:
        destinations: [{weight: 10000, subset: v1}, {weight: 0, subset: v2}]
        sticky: {key: {metadata: x-user}, seed: s}
- name: limit
  service: greeter
  methods: [helloworld.Greeter/SayHello]
  rate_limit: {limits: [{requests: 100}]}
- name: unchanged
  service: other
  timeout: {default: 1s}
`

func rpc(method, caller string, metadata ...string) *adminv1.RecordedRPC {
	r := &adminv1.RecordedRPC{Service: "greeter", Path: "/helloworld.Greeter/" + method, Caller: caller}
	for i := 0; i < len(metadata); i += 2 {
		r.Metadata = append(r.Metadata, &adminv1.RecordedField{Key: metadata[i], Value: []byte(metadata[i+1])})
	}
	return r
}

func TestSaysWhatChanges(t *testing.T) {
	after := strings.NewReplacer(
		"weight: 10000, subset: v1}, {weight: 0", "weight: 9000, subset: v1}, {weight: 1000",
		"requests: 100", "requests: 50",
		"exact: \"yes\"}]", "exact: \"no\"}]",
	).Replace(before)
	old, now := policies(t, before), policies(t, after+"- name: added\n  service: \"*\"\n  timeout: {max: 5s}\n")
	in := &Input{Policies: old, NewPolicies: now, Before: documentsOf(old, now), After: documentsOf(now, now), Now: time.Unix(0, 0)}
	for i := range 200 {
		in.Recorded = append(in.Recorded, rpc("SayHello", "web", "x-user", string(rune('a'+i%26))+string(rune('a'+i/26))))
	}
	in.Recorded = append(in.Recorded,
		rpc("SayHello", "web", "x-user", "someone", "x-beta", "yes"),
		rpc("SayHello", "mobile", "x-user", "someone", "x-beta", "yes"),
		rpc("SayGoodbye", "web"), rpc("", "web"))
	p, err := Make(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	text := Text(io.Discard, p)
	for _, want := range []string{
		"added policy (timeout) added: RPCs to all services\n",
		"changed policy (rate_limit) limit: RPCs to greeter, methods helloworld.Greeter/SayHello\n  ~ rate_limit.limits[0].requests: 100 -> 50\n",
		"changed policy (route) routes: RPCs to greeter from all callers\n",
		`  ~ route.rules[beta].match.metadata[x-beta].exact: "yes" -> "no"`,
		"  ~ route.rules[share].split.destinations[v1].weight: 10000 -> 9000\n  ~ route.rules[share].split.destinations[v2].weight: 0 -> 1000\n",
		"203 RPCs looked at", "1 RPC could not be looked at",
		"1 RPC to greeter helloworld.Greeter/SayHello from web: destination: greeter/v2 -> greeter/v1 as v1\n    such as one with x-user: someone, x-beta: yes\n",
		"1 RPC to greeter helloworld.Greeter/SayGoodbye from web: destination: greeter/v1 as v1 -> 90 % greeter/v1 as v1, 10 % greeter/v2 as v2",
		"deadline: none -> 5s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, "unchanged") || strings.Contains(text, "versions:") {
		t.Error("it tells of what does not change")
	}
	moved := 0
	for _, m := range p.Moves {
		if m.Aspect == "destination" && m.Before == "greeter/v1 as v1" && m.After == "greeter/v2 as v2" {
			moved = m.RPCs
		}
	}
	if moved < 8 || moved > 35 { // 200 users of whom a tenth moves; the users are always the same
		t.Errorf("%d RPCs move to v2", moved)
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestNothingChanges(t *testing.T) {
	list := policies(t, before)
	p, err := Make(t.Context(), &Input{
		Policies: list, NewPolicies: list, Before: documentsOf(list, list), After: documentsOf(list, list),
		Recorded: []*adminv1.RecordedRPC{rpc("SayHello", "web", "x-user", "a")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Changes) > 0 || p.Moved > 0 || p.Replayed != 1 {
		t.Errorf("%+v", p)
	}
}

func TestSaysWhatIsNotRemembered(t *testing.T) {
	old := policies(t, before)
	now := policies(t, strings.Replace(before, "key: x-beta", "key: x-new", 1))
	p, err := Make(t.Context(), &Input{
		Policies: old, NewPolicies: now, Before: documentsOf(old, now), After: documentsOf(now, now),
		Recorded: []*adminv1.RecordedRPC{rpc("SayHello", "web", "x-user", "a")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := Text(io.Discard, p); !strings.Contains(text, `looked at as if they had none: metadata "x-new"`) {
		t.Error(text)
	}
}

// Whoever plans is told which conditions could not be judged, since what they look at is
// secret.
func TestSaysWhatIsSecret(t *testing.T) {
	old := policies(t, before)
	now := policies(t, strings.Replace(before, "{key: x-beta,", "{key: authorization, present: true}, {key: x-api-key,", 1))
	for _, in := range []*Input{
		{Policies: old, NewPolicies: now, Before: documentsOf(old, now), After: documentsOf(now, now)},
		{Policies: now, NewPolicies: old, Before: documentsOf(now, old), After: documentsOf(old, old)},
	} {
		in.Recorded = []*adminv1.RecordedRPC{rpc("SayHello", "web", "x-user", "a", "x-api-key", "hidden-1")}
		p, err := Make(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if text := Text(io.Discard, p); !strings.Contains(text, `looked at as if they had others: metadata "authorization", metadata "x-api-key"`+"\n") {
			t.Error(text)
		}
	}
}

func TestWrongPoliciesAreAnError(t *testing.T) {
	list := policies(t, before)
	twice := append(policies(t, "policies:\n- name: second\n  service: other\n  timeout: {default: 2s}\n"), list...)
	_, err := Make(t.Context(), &Input{Policies: list, NewPolicies: twice})
	if err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("error %v", err)
	}
	// But it is not the fault of who changes something else.
	changed := append(policies(t, "policies:\n- name: more\n  service: third\n  timeout: {default: 3s}\n"), twice...)
	p, err := Make(t.Context(), &Input{Policies: twice, NewPolicies: changed, Before: documentsOf(twice, changed), After: documentsOf(changed, changed)})
	if err != nil || len(p.Changes) != 1 {
		t.Errorf("%+v, error %v", p, err)
	}
}

func TestFieldsOfNothing(t *testing.T) {
	list := policies(t, before)
	for _, p := range list {
		if d := Fields(p, p); len(d) > 0 {
			t.Errorf("%s differs from itself: %v", p.GetName(), d)
		}
		added, deleted := Fields(nil, p), Fields(p, nil)
		if len(added) == 0 || len(added) != len(deleted) {
			t.Errorf("%s: %d fields are added, %d deleted", p.GetName(), len(added), len(deleted))
		}
		for i := range added {
			if added[i].Path != deleted[i].Path || added[i].After != deleted[i].Before {
				t.Errorf("%s: added %v, deleted %v", p.GetName(), added[i], deleted[i])
			}
		}
	}
}

// What clients have sent is not obeyed by the terminal of whoever plans.
func TestHostileRecords(t *testing.T) {
	p := &Plan{
		Changes: []*Change{{Kind: "policy", Name: "a\x1b[2J", What: "changed", Fields: []Field{{Path: "x\x1b[2J", Before: "\x1b[2J", After: "\u009b2J"}}}},
		Moves:   []*Move{{Service: "greeter\x1b[2J", Method: "\x1b]0;owned\a", Caller: "\x1b[2J", Before: "\x1b[2J", After: "\u202e", Example: []string{"x-user: \x1b[2J\r"}}},
		Moved:   1, Replayed: 1, Unknown: []string{"\x1b[2J"},
	}
	if text := Text(io.Discard, p); strings.ContainsAny(text, "\x1b\a\r\u009b\u202e") {
		t.Errorf("it says %q", text)
	}
}
