package access

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestNames(t *testing.T) {
	t.Parallel()
	td := spiffeid.RequireTrustDomainFromString("example.org")
	for _, c := range []struct{ template, own, service, want string }{
		{"", "", "web", "spiffe://example.org/svc/web"},
		{"", web, "web", "spiffe://example.org/svc/web"},
		{"spiffe://{trust_domain}/x/{service}/y", web, "web", "spiffe://example.org/x/web/y"},
		{"", "spiffe://example.org/ns/team/dc/dc1/svc/api", "web", "spiffe://example.org/ns/team/dc/*/svc/web"},
		{"", "spiffe://example.org/ap/p/ns/team/dc/dc1/svc/api", "web", "spiffe://example.org/ap/p/ns/team/dc/*/svc/web"},
		{"spiffe://{trust_domain}/{service}", "spiffe://example.org/ns/team/dc/dc1/svc/api", "web", "spiffe://example.org/web"},
		{"", "", "no/service", ""},
		{"", "spiffe://example.org/ns/team/dc/dc1/svc/api", "no service", ""},
	} {
		got := ""
		if patterns := Names(c.template, id(c.own), td)(c.service); len(patterns) == 1 {
			got = patterns[0].String()
		}
		if got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"web": true, "my.web-1_x": true, web: true, "spiffe://*": true, "spiffe://example.org/**": true,
		"": false, "a/b": false, "*": false, "http://example.org": false, "spiffe://": false, "spiffe://*/svc": false, "spiffe://example.org/**/x": false,
	} {
		from, err := ParseFrom(text)
		if (err == nil) != ok || ok && from.String() != text {
			t.Errorf("%q: %v, %v", text, from, err)
		}
	}
}

func TestRulesThatAreEqual(t *testing.T) {
	t.Parallel()
	a, b := policy(t, "a", "deny"), policy(t, "b", "deny")
	var none *Rules
	if !NewRules(a, b).Equal(NewRules(a, b)) || !NewRules().Equal(none) {
		t.Error("the same is not equal")
	}
	if NewRules(a, b).Equal(NewRules(b, a)) || NewRules(a).Equal(none) || none.Equal(NewRules(a)) {
		t.Error("other policies are equal")
	}
}
