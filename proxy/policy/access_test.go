package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/access"
)

const webID = "spiffe://example.org/svc/web"

// longestTried is how many bytes a value may have for a short expression to be tried.
const longestTried = 4096

// accessOf puts the access policies for a service in force.
func accessOf(set *Set, service string) *access.Policy {
	return access.New(set.Service(service).Access(), nil, access.Env{IDs: func(service string) []identity.Pattern {
		pattern, _ := identity.ParsePattern("spiffe://example.org/svc/" + service)
		return []identity.Pattern{pattern}
	}})
}

func TestAccessPolicies(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- name: all
  service: "*"
  access: {rules: [{action: deny, metadata: [{key: x-forbidden, present: true}]}]}
- name: greeter
  service: greeter
  inbound: true
  access:
    rules:
    - {action: allow, from: [web], methods: [helloworld.Greeter/Say*]}
    - {name: tagged, action: allow, from: ["spiffe://example.org/**"], metadata: [{key: x-tag, regex: "a+"}, {key: x-old, present: false}]}
    - {name: tried, action: deny, methods: [helloworld.Greeter/SayHello], mode: audit}
    - {action: deny, mode: "off"}
- {name: greeter-too, service: greeter, access: {rules: [{action: deny, methods: [secret.S]}]}}
`)
	p := accessOf(set, "greeter")
	long := strings.Repeat("a", longestTried+1)
	for _, c := range []struct {
		from, path string
		metadata   []string
		by, audit  string
	}{
		{webID, sayHello, nil, "", "greeter"},
		{webID, "/helloworld.Greeter/SayBye", nil, "", ""},
		{webID, "/helloworld.Greeter/SayBye", []string{"x-forbidden: 1"}, "all", ""},
		{webID, "/secret.S/M", []string{"x-tag: a"}, "greeter-too", ""},
		{webID, "/other.S/M", nil, "greeter", ""},
		{"spiffe://example.org/any", "/other.S/M", []string{"x-tag: aaa"}, "", ""},
		{"spiffe://example.org/any", "/other.S/M", []string{"x-tag: aaa", "x-old: 1"}, "greeter", ""},
		{"spiffe://example.org/any", "/other.S/M", []string{"x-tag: a", "x-tag: a"}, "greeter", ""},
		{"spiffe://example.org/any", "/other.S/M", []string{"x-tag: " + long}, "greeter", ""},
		{"", sayHello, nil, "greeter", ""},
	} {
		var id spiffeid.ID
		if c.from != "" {
			id = spiffeid.RequireFromString(c.from)
		}
		d, seen := p.ForID(id).Explain(c.path, request(c.path, c.metadata...).Fields)
		named := func(name string) string {
			if name == "" {
				return ""
			}
			return "access policy " + quoted(name)
		}
		if d.By != named(c.by) || d.Audit != named(c.audit) || d.Allowed != (c.by == "") {
			t.Errorf("%s %s %.60q: %+v", c.from, c.path, c.metadata, d)
		}
		if len(seen) != 5 {
			t.Errorf("%d rules are looked at", len(seen))
		}
	}
	if set.Service("other").Access() == nil || compiled(t, severalPolicies).Service("greeter").Access() != nil {
		t.Error("access policies for all are for services that others name")
	}
	var kinds []string
	for _, trace := range set.Service("greeter").Explain(sayHello, true) {
		kinds = append(kinds, trace.Kind.String()+" "+trace.Policy)
	}
	if !slices.Equal(kinds, []string{"access greeter", "access greeter-too", "access all"}) || set.Service("greeter").Explain(sayHello, false) != nil {
		t.Errorf("%q", kinds)
	}
}

// A rule that denies holds where it cannot be told whether it does.
func TestDenialsThatCannotBeTold(t *testing.T) {
	t.Parallel()
	set := compiled(t, `
- name: p
  service: greeter
  access:
    rules:
    - {action: deny, metadata: [{key: x-role, regex: "adm.*"}]}
    - {action: deny, metadata: [{key: x-team, exact: a}]}
    - {action: deny, metadata: [{key: x-key-bin, bytes: AAA=}]}
    - {action: deny, metadata: [{key: x-not, regex: "b+", invert: true}]}
`)
	caller := accessOf(set, "greeter").ForID(spiffeid.ID{})
	for metadata, allowed := range map[string]bool{
		"":              true,
		"x-role: user":  true,
		"x-role: admin": false,
		"x-role: adm" + strings.Repeat("x", longestTried):  false,
		"x-role: user" + strings.Repeat("x", longestTried): true, // known by how it begins
		"x-team: b":              true,
		"x-team: a":              false,
		"x-team: b|x-team: a":    false,
		"x-key-bin: AAA":         false,
		"x-key-bin: AAE":         true,
		"x-key-bin: AAE,AAE":     false,
		"x-not: bb|x-role: user": true,
		"x-not: c":               false,
		"x-not: " + strings.Repeat("b", longestTried+1): false,
	} {
		var list []string
		if metadata != "" {
			list = strings.Split(metadata, "|")
		}
		// A key that is missing fulfils what is turned around, so it is there.
		if !strings.Contains(metadata, "x-not") {
			list = append(list, "x-not: b")
		}
		if d := caller.Decide(sayHello, request(sayHello, list...).Fields); d.Allowed != allowed {
			t.Errorf("%.40q: allowed %v", metadata, d.Allowed)
		}
	}
}

func TestAccessPoliciesThatAreRefused(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"methods": {"methods"},
		"names":   {"access.rules[1].name"},
		"from":    {"access.rules[0].from[1]", "access.rules[0].from[2]"},
		"rules":   {"access.rules[0].methods[1]", "access.rules[0].metadata[0].regex", "access.rules[0].metadata[1].key"},
	}
	got := map[string][]string{}
	for _, r := range refusalsOf(written(t, `
- {name: fine, service: greeter, access: {rules: [{action: allow}]}}
- {name: fine-too, service: greeter, access: {rules: [{action: allow}]}}
- {name: methods, service: greeter, methods: [a.B], access: {rules: [{action: allow}]}}
- {name: names, service: greeter, access: {rules: [{name: "2", action: allow}, {action: deny}]}}
- {name: from, service: greeter, access: {rules: [{action: allow, from: [web, "spiffe://Example.org/x", "spiffe://a/b*"]}]}}
- {name: rules, service: greeter, access: {rules: [{action: deny, methods: [a.B, a.B/], metadata: [{key: a, regex: "("}, {key: ":path", exact: x}]}]}}
`)) {
		got[r.Policy] = append(got[r.Policy], r.Field)
		if r.Message == "" || strings.Contains(r.Error(), "\n") {
			t.Errorf("%+v", r)
		}
	}
	for name := range got {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s: %q, not %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("refused: %v", got)
	}
}

// What a policy says stays the same object while others change, and its last good
// version holds while it is wrong.
func TestAccessAcrossChanges(t *testing.T) {
	t.Parallel()
	const a = "- {name: a, service: greeter, access: {rules: [{action: allow, from: [web]}]}}\n"
	first := compiled(t, a)
	before := first.Service("greeter").Access()
	second, refused := Compile(written(t, a+"- {name: t, service: greeter, timeout: {default: 1s}}\n"), first, Env{})
	if len(refused) > 0 || !second.Service("greeter").Access().Equal(before) {
		t.Errorf("another policy changes what is said: %v", refused)
	}
	third, refused := Compile(written(t, `- {name: a, service: greeter, access: {rules: [{action: allow, from: ["spiffe://a/b*"]}]}}`), second, Env{})
	if len(refused) != 1 || !refused[0].Kept || !third.Service("greeter").Access().Equal(before) {
		t.Errorf("the last good version does not hold: %v", refused)
	}
	fourth, _ := Compile(written(t, `- {name: a, service: greeter, access: {rules: [{action: allow, from: [web, api]}]}}`), third, Env{})
	if fourth.Service("greeter").Access().Equal(before) {
		t.Error("what has changed is the same")
	}
}

func TestAccessWarnings(t *testing.T) {
	t.Parallel()
	var got []string
	for _, w := range Warnings(written(t, `
- name: a
  service: greeter
  access:
    rules:
    - {name: gone, action: allow, from: [nobody]}
    - {name: twice, action: allow, methods: [a.B, a.B/C]}
    - {name: never, action: allow, metadata: [{key: k, exact: a}, {key: k, exact: b}]}
    - {name: no, action: deny, from: ["spiffe://example.org"], methods: [a.B]}
    - {name: vain, action: allow, from: ["spiffe://example.org/svc/x"], methods: [a.B/C]}
    - {name: fine, action: allow, from: ["spiffe://example.organic/svc/x", greeter], methods: [a.B/C]}
- {name: b, service: greeter, access: {mode: "off", rules: [{action: deny, mode: enforce}, {action: deny}]}}
`), []string{"greeter"}) {
		got = append(got, w.String())
	}
	want := []string{
		`policy "a", access.rules[0].from[0]: no service "nobody" is known`,
		`policy "a", access.rules[1].methods[1]: "a.B/C" is part of "a.B", which is there too`,
		`policy "a", access.rules[2].metadata: can never match: it asks for metadata "k" of "a" and for metadata "k" of "b", which no RPC has`,
		`policy "a", access.rules[4]: allows nothing: rule "no" denies all that it would`,
		`policy "b", access.rules[0].mode: is enforce, and holds though the policy is off: take it out to have the policy's`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}
