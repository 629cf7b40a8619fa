package identity_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/identity"
)

var td = spiffeid.RequireTrustDomainFromString("example.org")

func TestServiceID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, service, want, err string }{
		{"", "web", "spiffe://example.org/svc/web", ""},
		{identity.DefaultServiceID, "web", "spiffe://example.org/svc/web", ""},
		{"spiffe://other.org/ns/{service}/sa/{service}", "web", "spiffe://other.org/ns/web/sa/web", ""},
		{"spiffe://{trust_domain}/ns/default/dc/dc1/svc/{service}", "web", "spiffe://example.org/ns/default/dc/dc1/svc/web", ""},
		{"", "a/b", "", `service "a/b" has no SPIFFE ID`},
		{"", "", "", `service "" has no SPIFFE ID`},
		{"", "..", "", "dots alone"},
		{"spiffe://{trust_domain}/{service}/", "web", "", `by the template "spiffe://{trust_domain}/{service}/"`},
	} {
		id, err := identity.ServiceID(c.template, td, c.service)
		if id.String() != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q by %q: %v, %v; want %q, %q", c.service, c.template, id, err, c.want, c.err)
		}
	}
	if _, err := identity.ServiceID("", spiffeid.TrustDomain{}, "web"); err == nil || !strings.Contains(err.Error(), "not known yet") {
		t.Errorf("without a trust domain: %v", err)
	}
}

func TestServiceOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, id, want string }{
		{"", "spiffe://example.org/svc/web", "web"},
		{"", "spiffe://other.org/svc/web", ""},
		{"", "spiffe://example.org/svc/web/x", ""},
		{"", "spiffe://example.org/x/svc/web", ""},
		{"", "spiffe://example.org/svcweb", ""},
		{"", "spiffe://example.org", ""},
		{"spiffe://other.org/{service}/x/{service}", "spiffe://other.org/web/x/web", "web"},
		{"spiffe://other.org/{service}/x/{service}", "spiffe://other.org/web/x/bew", ""},
		{"spiffe://other.org/{service}/x/{service}", "spiffe://other.org/web/x/webs", ""},
		{"spiffe://other.org/pre-{service}-post", "spiffe://other.org/pre-web-post", "web"},
		{"spiffe://other.org/pre-{service}-post", "spiffe://other.org/pre--post", ""},
		{"spiffe://other.org/pre-{service}-post", "spiffe://other.org/pre-post", ""},
		{"spiffe://other.org/fixed", "spiffe://other.org/fixed", ""},
	} {
		id := spiffeid.RequireFromString(c.id)
		got, ok := identity.ServiceOf(c.template, td, id)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s by %q: %q, %v; want %q", c.id, c.template, got, ok, c.want)
		}
	}
	if service, ok := identity.ServiceOf("", td, spiffeid.ID{}); ok {
		t.Errorf("who has no ID is %q", service)
	}
}

// One is the inverse of the other, whatever the template.
func TestServiceOfIsTheInverse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"/", "a", "web", "-", "{service}", "{service}", "{trust_domain}"}), 1, 8).Draw(t, "parts")
		template := "spiffe://{trust_domain}/" + strings.Join(parts, "")
		service := rapid.StringMatching(`[a-c.][a-c.]{0,4}`).Draw(t, "service")
		id, err := identity.ServiceID(template, td, service)
		if err != nil || !strings.Contains(template, "{service}") {
			return
		}
		if got, ok := identity.ServiceOf(template, td, id); !ok || got != service {
			t.Errorf("%s by %q: %q, %v; want %q", id, template, got, ok, service)
		}
	})
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"spiffe://example.org/svc/web":                            "web",
		"spiffe://example.org/ns/default/dc/dc1/svc/web":          "web",
		"spiffe://example.org/ns/other/dc/dc1/svc/web":            "",
		"spiffe://example.org/ap/p/ns/default/dc/dc1/svc/web":     "",
		"spiffe://other.org/ns/default/dc/dc1/svc/web":            "",
		"spiffe://other.org/svc/web":                              "",
		"spiffe://example.org/ns/default/dc/dc1/svc/web/more":     "",
		"spiffe://example.org/gateway/mesh/dc/dc1":                "",
		"spiffe://example.org/ns/default/dc/dc1/svc":              "",
		"spiffe://example.org/agent/client/dc/dc1/id/0-0/svc/web": "",
	} {
		if want == "" {
			want = id
		}
		if got := identity.NameOf("", td, spiffeid.RequireFromString(id)); got != want {
			t.Errorf("%s is called %q, want %q", id, got, want)
		}
	}
}

func TestConsulID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]identity.ConsulID{
		"spiffe://example.org/ns/default/dc/dc1/svc/web": {Service: "web", Namespace: "default", Partition: "default", Datacenter: "dc1"},
		"spiffe://example.org/ap/p/ns/n/dc/d/svc/web":    {Service: "web", Namespace: "n", Partition: "p", Datacenter: "d"},
		"spiffe://example.org/dc/d/ns/n/svc/web":         {},
		"spiffe://example.org/ap/p/svc/web":              {},
		"spiffe://example.org/ns/n/dc/d/svc/web/x/y":     {},
		"spiffe://example.org":                           {},
	} {
		got, ok := identity.ParseConsulID(spiffeid.RequireFromString(text))
		if got != want || ok != (want != identity.ConsulID{}) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, ok, want)
		}
		if !ok {
			continue
		}
		if id, err := got.ID(td); err != nil || id.String() != text {
			t.Errorf("%+v is %v, %v; want %s", got, id, err, text)
		}
	}
	if _, ok := identity.ParseConsulID(spiffeid.ID{}); ok {
		t.Error("who has no ID is Consul's")
	}
}
