package access

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/registry"
)

// oracle decides in the simplest way: it looks at everything in turn.
type oracle struct {
	policies []*Written
	in       *registry.Intentions
	from     spiffeid.ID
	path     string
	fields   []hpack.Field
}

func (o *oracle) decide() (by, audit string) {
	if by = o.intentions(); by != "" {
		return by, ""
	}
	if by = o.rules(Enforce); by != "" {
		return by, ""
	}
	return "", o.rules(Audit)
}

// rules says who refuses by the rules of a mode.
func (o *oracle) rules(mode Mode) string {
	var allowing []string // policies that allow anything at all
	var denied, deniedFor string
	allowed := false
	for _, p := range o.policies {
		for i := range p.Rules {
			r := &p.Rules[i]
			if r.Allow && r.Mode == mode && !slices.Contains(allowing, p.Name) {
				allowing = append(allowing, p.Name)
			}
			// In audit, what is enforced goes on holding.
			if r.Mode != mode && (mode != Audit || r.Mode != Enforce || !r.Allow) {
				continue
			}
			allowed = allowed || r.Allow && r.Mode != mode // it had to be allowed by such a rule
			if !o.matches(r) {
				continue
			}
			switch {
			case r.Allow:
				allowed = true
			case r.Metadata == nil || o.odd() && !allMethods(r):
				if denied == "" {
					denied = p.Name
				}
			case deniedFor == "":
				deniedFor = p.Name
			}
		}
	}
	switch {
	case denied != "":
		return fmt.Sprintf("access policy %q", denied)
	case deniedFor != "":
		return fmt.Sprintf("access policy %q", deniedFor)
	case len(allowing) == 0 || allowed:
		return ""
	case len(allowing) == 1:
		return fmt.Sprintf("access policy %q", allowing[0])
	case len(allowing) == 2:
		return fmt.Sprintf("access policy %q (and 1 other)", allowing[0])
	}
	return fmt.Sprintf("access policy %q (and %d others)", allowing[0], len(allowing)-1)
}

func allMethods(r *Rule) bool { return len(r.Methods) == 0 || slices.Contains(r.Methods, Selector{}) }

// expression compiles each expression once.
func expression(text string) *regexp.Regexp {
	if known, ok := expressions.Load(text); ok {
		return known.(*regexp.Regexp)
	}
	compiled := regexp.MustCompile(text)
	expressions.Store(text, compiled)
	return compiled
}

var expressions sync.Map

var plain = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?$`)

func (o *oracle) odd() bool { return !plain.MatchString(o.path) }

func (o *oracle) matches(r *Rule) bool {
	if len(r.From) > 0 && !slices.ContainsFunc(r.From, func(f From) bool { return o.isFrom(f.String()) }) {
		return false
	}
	if !allMethods(r) {
		if o.odd() {
			return !r.Allow
		}
		if !slices.ContainsFunc(r.Methods, func(s Selector) bool {
			return s.Path == o.path || !s.Exact && strings.HasPrefix(o.path, s.Path)
		}) {
			return false
		}
	}
	return r.Metadata == nil || r.Metadata.Holds(o.fields, !r.Allow)
}

// isFrom matches patterns by regular expressions.
func (o *oracle) isFrom(text string) bool {
	switch {
	case o.from.IsZero():
		return false
	case text == "spiffe://*":
		return true
	case !strings.Contains(text, "://"):
		text = "spiffe://example.org/svc/" + text
	case strings.Count(text, "/") == 2:
		text += "(/.*)?"
	}
	text, all := strings.CutSuffix(text, "/**")
	text, domain := strings.CutSuffix(text, "(/.*)?")
	text = strings.ReplaceAll(regexp.QuoteMeta(text), `\*`, "[^/]+")
	switch {
	case all:
		text += "/.+"
	case domain:
		text += "(/.*)?"
	}
	return expression("^" + text + "$").MatchString(o.from.String())
}

// intentions says which intention refuses, by the expressions that Consul gives Envoy
// for who an intention is for.
func (o *oracle) intentions() string {
	if o.in == nil || o.from.IsZero() {
		return ""
	}
	any := func(name string) string {
		if name == "*" {
			return "[^/]+"
		}
		return regexp.QuoteMeta(name)
	}
	for i := range o.in.List {
		one := &o.in.List[i]
		domain := one.TrustDomain
		if domain == "" {
			if one.Peer != "" {
				continue
			}
			domain = o.in.TrustDomain
		}
		partition := ""
		switch one.Partition {
		case "*":
			partition = "(/ap/[^/]+)?"
		case "default":
		default:
			partition = "/ap/" + one.Partition
		}
		who := "^spiffe://" + regexp.QuoteMeta(domain) + partition + "/ns/" + any(one.Namespace) + "/dc/[^/]+/svc/" + any(one.Service) + "$"
		if !expression(who).MatchString(o.from.String()) {
			continue
		}
		allowed := one.Allow
		if len(one.Permissions) > 0 {
			allowed = o.in.DefaultAllow
			for j := range one.Permissions {
				if o.permits(&one.Permissions[j]) {
					allowed = one.Permissions[j].Allow
					break
				}
			}
		}
		if allowed {
			return ""
		}
		return fmt.Sprintf("intention %q to %q", one.Service, one.Destination)
	}
	if o.in.DefaultAllow {
		return ""
	}
	return "the default of Consul's intentions"
}

// permits says whether a permission is for the request.
func (o *oracle) permits(p *registry.IntentionPermission) bool {
	if len(p.Methods) > 0 && !slices.Contains(p.Methods, "POST") {
		return false
	}
	if p.Unsupported != "" {
		return !p.Allow
	}
	if asks := p.PathExact + p.PathPrefix + p.PathRegex; asks != "" && o.odd() {
		return !p.Allow
	}
	if p.PathExact != "" && p.PathExact != o.path || !strings.HasPrefix(o.path, p.PathPrefix) {
		return false
	}
	if p.PathRegex != "" && !expression("^(?:"+p.PathRegex+")$").MatchString(o.path) {
		return false
	}
	return !slices.ContainsFunc(p.Headers, func(h registry.IntentionHeader) bool { return !o.hasHeader(&h) })
}

// hasHeader says whether a condition on a header is met.
func (o *oracle) hasHeader(h *registry.IntentionHeader) bool {
	fold := func(s string) string {
		if h.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	there, meets := false, false
	for _, f := range o.fields {
		if f.Name != strings.ToLower(h.Name) {
			continue
		}
		there = true
		switch value := fold(f.Value); {
		case h.Exact != "":
			meets = meets || value == fold(h.Exact)
		case h.Prefix != "":
			meets = meets || strings.HasPrefix(value, fold(h.Prefix))
		case h.Suffix != "":
			meets = meets || strings.HasSuffix(value, fold(h.Suffix))
		case h.Contains != "":
			meets = meets || strings.Contains(value, fold(h.Contains))
		case h.Regex != "":
			meets = meets || expression("^(?:"+h.Regex+")$").MatchString(f.Value)
		}
	}
	if h.Present {
		return there != h.Invert
	}
	return there && meets != h.Invert
}

// The universe is small, so that what is drawn meets often.
var (
	someIDs = []string{
		"", web, billing, foreign, "spiffe://example.org/ops/a/b", "spiffe://example.org",
		"spiffe://dc.consul/ns/default/dc/dc1/svc/web", "spiffe://dc.consul/ns/default/dc/dc2/svc/api", "spiffe://dc.consul/ns/team/dc/dc1/svc/web",
		"spiffe://dc.consul/ap/part/ns/default/dc/dc1/svc/web", "spiffe://peer.consul/ns/default/dc/dc1/svc/web", "spiffe://dc.consul/gateway/mesh/dc/dc1",
	}
	someFroms = []string{
		"web", "billing", web, billing, foreign, "spiffe://example.org", "spiffe://other.example", "spiffe://*",
		"spiffe://example.org/*/web", "spiffe://example.org/ops/**", "spiffe://example.org/*/*/*", "spiffe://dc.consul/ns/*/dc/*/svc/web", "spiffe://dc.consul/**",
	}
	somePaths     = []string{list, place, refund, "/shop.Orders/", "/shop.OrdersX/List", "/x", "/shop.Orders/%4cist", "/shop.Orders//List", "/shop.Orders/List?x"}
	someSelectors = []Selector{
		{Path: list, Exact: true}, {Path: place, Exact: true}, {Path: refund, Exact: true}, {}, {Path: "/shop.Orders/"}, {Path: "/shop.Orders"}, {Path: "/shop."},
		{Path: "/shop.Orders/L"}, {Path: "/shop.Payments/"},
	}
	someFields = []hpack.Field{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: "a", Value: "?"}, {Name: "b", Value: "One"}, {Name: "b", Value: "two"}}
)

func drawPolicies(t *rapid.T) (policies []*Written) {
	for i := range rapid.IntRange(0, 3).Draw(t, "policies") {
		p := &Written{Name: string(rune('p' + i))}
		for j := range rapid.IntRange(0, 6).Draw(t, "rules") {
			r := Rule{
				Name: fmt.Sprint(j), Allow: rapid.Bool().Draw(t, "allow"),
				Mode:    rapid.SampledFrom([]Mode{Enforce, Enforce, Audit, Off}).Draw(t, "mode"),
				Methods: rapid.SliceOfN(rapid.SampledFrom(someSelectors), 0, 3).Draw(t, "methods"),
			}
			for _, text := range rapid.SliceOfN(rapid.SampledFrom(someFroms), 0, 3).Draw(t, "from") {
				from, err := ParseFrom(text)
				if err != nil {
					t.Fatal(err)
				}
				r.From = append(r.From, from)
			}
			if rapid.IntRange(0, 2).Draw(t, "conditions") == 0 {
				f := rapid.SampledFrom(someFields).Draw(t, "condition")
				r.Metadata = has{f.Name, f.Value}
			}
			p.Rules = append(p.Rules, r)
		}
		policies = append(policies, p)
	}
	return policies
}

func drawIntentions(t *rapid.T) *registry.Intentions {
	if rapid.Bool().Draw(t, "no intentions") {
		return nil
	}
	in := &registry.Intentions{DefaultAllow: rapid.Bool().Draw(t, "default"), TrustDomain: "dc.consul"}
	one := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	maybe := func(name string, of ...string) string { return one(name, append(of, "", "")...) }
	for range rapid.IntRange(0, 5).Draw(t, "intentions") {
		i := registry.Intention{
			Service: one("service", "web", "api", "*"), Namespace: one("namespace", "default", "team", "*"), Partition: one("partition", "default", "default", "part"),
			Peer: maybe("peer", "east"), Allow: rapid.Bool().Draw(t, "allow"), Destination: one("destination", "orders", "*"),
		}
		if i.Peer != "" {
			i.TrustDomain = maybe("domain", "peer.consul")
		}
		for range rapid.IntRange(0, 3).Draw(t, "permissions") {
			p := registry.IntentionPermission{Allow: rapid.Bool().Draw(t, "allow"), Unsupported: maybe("unsupported", "", "", "JWT")}
			switch rapid.IntRange(0, 3).Draw(t, "path") {
			case 1:
				p.PathExact = rapid.SampledFrom(somePaths).Draw(t, "exact")
			case 2:
				p.PathPrefix = one("prefix", "/", "/shop.Orders", "/shop.Orders/L")
			case 3:
				p.PathRegex = one("regex", "/shop[.]Orders/.*", ".*/List|/x", "/shop.*")
			}
			if rapid.IntRange(0, 3).Draw(t, "methods") == 0 {
				p.Methods = [][]string{{"GET"}, {"GET", "POST"}}[rapid.IntRange(0, 1).Draw(t, "POST")]
			}
			for range rapid.IntRange(0, 2).Draw(t, "headers") {
				p.Headers = append(p.Headers, drawHeader(t))
			}
			i.Permissions = append(i.Permissions, p)
		}
		in.List = append(in.List, i)
	}
	return in
}

func drawHeader(t *rapid.T) registry.IntentionHeader {
	h := registry.IntentionHeader{
		Name: rapid.SampledFrom([]string{"a", "B", "c"}).Draw(t, "header"), Invert: rapid.Bool().Draw(t, "invert"),
		IgnoreCase: rapid.Bool().Draw(t, "ignore case"),
	}
	text := rapid.SampledFrom([]string{"1", "2", "one", "ONE", "o", "1,2", "e"}).Draw(t, "text")
	switch rapid.IntRange(0, 5).Draw(t, "test") {
	case 0:
		h.Present = true
	case 1:
		h.Exact = text
	case 2:
		h.Prefix = text
	case 3:
		h.Suffix = text
	case 4:
		h.Contains = text
	case 5:
		h.Regex = text + "|[0-9,]+"
	}
	return h
}

// What is found by indexes is what looking at everything in turn finds.
func checkDecision(t *rapid.T) {
	policies, in := drawPolicies(t), drawIntentions(t)
	p := New(NewRules(policies...), in, env)
	for range 30 {
		o := oracle{policies: policies, in: in, path: rapid.SampledFrom(somePaths).Draw(t, "path")}
		o.from = id(rapid.SampledFrom(someIDs).Draw(t, "from"))
		o.fields = append(request(o.path), rapid.SliceOfN(rapid.SampledFrom(someFields), 0, 3).Draw(t, "fields")...)
		caller := p.ForID(o.from)
		d, seen := caller.Explain(o.path, o.fields)
		by, audit := o.decide()
		if d.By != by || d.Audit != audit || d.Allowed != (by == "") {
			t.Fatalf("%v %s %v: %+v, and by %q, audit %q is wanted", o.from, o.path, o.fields, d, by, audit)
		}
		for _, s := range seen {
			if s.Policy == "" {
				continue
			}
			i := slices.IndexFunc(policies, func(w *Written) bool { return w.Name == s.Policy })
			j := slices.IndexFunc(policies[i].Rules, func(r Rule) bool { return r.Name == s.Rule })
			if want := o.matches(&policies[i].Rules[j]); s.Matched != want {
				t.Fatalf("%v %s %v: rule %s/%s: %+v", o.from, o.path, o.fields, s.Policy, s.Rule, s)
			}
		}
		if without := caller.Decide(o.path, nil); !caller.Looks(o.path) && without.Allowed != d.Allowed {
			t.Fatalf("%v %s %v: it is not said that fields are looked at", o.from, o.path, o.fields)
		}
	}
}

func TestItIsAsTheOracleSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, checkDecision)
}

func FuzzDecide(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkDecision)) }
