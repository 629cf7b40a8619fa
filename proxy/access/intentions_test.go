package access

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/registry"
)

const (
	consulWeb  = "spiffe://dc.consul/ns/default/dc/dc1/svc/web"
	consulAPI  = "spiffe://dc.consul/ns/default/dc/dc2/svc/api"
	consulTeam = "spiffe://dc.consul/ns/team/dc/dc1/svc/web"
	consulPart = "spiffe://dc.consul/ap/part/ns/default/dc/dc1/svc/web"
	consulPeer = "spiffe://peer.consul/ns/default/dc/dc1/svc/web"
)

// from is an intention for a service.
func from(service string, allow bool, permissions ...registry.IntentionPermission) registry.Intention {
	namespace, name, ok := strings.Cut(service, "/")
	if !ok {
		namespace, name = "default", service
	}
	return registry.Intention{Service: name, Namespace: namespace, Partition: "default", Allow: allow, Destination: "orders", Permissions: permissions}
}

// Of Consul's table of precedence: what is more exact comes first, and the first that is
// for the caller decides.
func TestPrecedenceOfIntentions(t *testing.T) {
	t.Parallel()
	const allow, deny = true, false
	peer := from("web", allow)
	peer.Peer, peer.TrustDomain = "east", "peer.consul"
	unknown := from("*", allow)
	unknown.Peer = "west"
	part := from("web", allow)
	part.Partition = "part"
	for name, c := range map[string]struct {
		list  []registry.Intention
		allow bool // by default
		want  map[string]string
	}{
		"the default denies": {nil, deny, map[string]string{consulWeb: "the default of Consul's intentions", "": "", web: "the default of Consul's intentions"}},
		"the default allows": {nil, allow, map[string]string{consulWeb: "", "": "", web: ""}},
		"one before all": {[]registry.Intention{from("web", allow), from("*", deny)}, allow, map[string]string{
			consulWeb: "", consulAPI: `intention "*" to "orders"`, consulTeam: "", web: "",
		}},
		"one is denied": {[]registry.Intention{from("web", deny), from("*", allow)}, deny, map[string]string{
			consulWeb: `intention "web" to "orders"`, consulAPI: "", consulTeam: "the default of Consul's intentions",
		}},
		"the first of two for the same": {[]registry.Intention{from("web", allow), from("web", deny)}, deny, map[string]string{consulWeb: ""}},
		"all namespaces": {[]registry.Intention{from("team/web", deny), from("*/*", allow)}, deny, map[string]string{
			consulTeam: `intention "web" to "orders"`, consulWeb: "", consulAPI: "", consulPart: "the default of Consul's intentions", consulPeer: "the default of Consul's intentions",
		}},
		"a partition": {[]registry.Intention{part}, deny, map[string]string{consulPart: "", consulWeb: "the default of Consul's intentions"}},
		"a peer": {[]registry.Intention{peer, unknown}, deny, map[string]string{
			consulPeer: "", consulWeb: "the default of Consul's intentions", consulAPI: "the default of Consul's intentions",
		}},
		"a wider one before a narrower one decides": {[]registry.Intention{from("*", deny), from("web", allow)}, allow, map[string]string{
			consulWeb: `intention "*" to "orders"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := New(nil, &registry.Intentions{DefaultAllow: c.allow, TrustDomain: "dc.consul", List: c.list}, env)
			for caller, by := range c.want {
				if d := p.ForID(id(caller)).Decide(list, request(list)); d.By != by || d.Allowed != (by == "") {
					t.Errorf("%s: %+v, and by %q is wanted", caller, d, by)
				}
			}
		})
	}
}

// Where permissions are, the first that is for the request decides, and where none is,
// the default of all intentions, whatever the intention's own action (Consul's Envoy).
func TestPermissionsOfIntentions(t *testing.T) {
	t.Parallel()
	type permission = registry.IntentionPermission
	long := "/shop.Orders/" + strings.Repeat("a", 8<<10)
	for name, c := range map[string]struct {
		permissions []permission
		byDefault   bool
		path        string
		metadata    []string
		want        bool
	}{
		"none matches, and the default denies":                 {[]permission{{Allow: true, PathExact: place}}, false, list, nil, false},
		"none matches, and the default allows":                 {[]permission{{PathExact: place}}, true, list, nil, true},
		"the first decides":                                    {[]permission{{PathExact: list}, {Allow: true, PathPrefix: "/"}}, false, list, nil, false},
		"the next where the first is not for it":               {[]permission{{PathExact: list}, {Allow: true, PathPrefix: "/"}}, false, place, nil, true},
		"a wide one before an exact one":                       {[]permission{{Allow: true, PathPrefix: "/shop."}, {PathExact: list}}, false, list, nil, true},
		"an expression for the whole path":                     {[]permission{{Allow: true, PathRegex: "/shop[.]Orders"}}, false, list, nil, false},
		"an expression":                                        {[]permission{{Allow: true, PathRegex: "/shop[.]Orders/.*"}}, false, list, nil, true},
		"a path too long for an expression is not allowed":     {[]permission{{Allow: true, PathRegex: "/shop[.]Orders/.*"}}, false, long, nil, false},
		"a path too long for an expression is denied":          {[]permission{{PathRegex: "/shop[.]Orders/.*"}}, true, long, nil, false},
		"an expression that nobody understands allows nothing": {[]permission{{Allow: true, PathRegex: "("}}, false, list, nil, false},
		"an expression that nobody understands denies all":     {[]permission{{PathRegex: "("}}, true, list, nil, false},
		"gRPC's method":                                        {[]permission{{Allow: true, Methods: []string{"GET", "POST"}}}, false, list, nil, true},
		"other methods":                                        {[]permission{{Allow: true, Methods: []string{"GET"}}}, false, list, nil, false},
		"other methods of what is not understood":              {[]permission{{Methods: []string{"GET"}, Unsupported: "JWT"}}, true, list, nil, true},
		"tokens allow nothing":                                 {[]permission{{Allow: true, Unsupported: "JWT"}}, false, list, nil, false},
		"tokens deny all":                                      {[]permission{{Unsupported: "JWT"}}, true, list, nil, false},
		"a header": {
			[]permission{{Allow: true, Headers: []registry.IntentionHeader{{Name: "X-Team", Exact: "a"}}}}, false, list, []string{"x-team: a"}, true,
		},
		"a header and a path": {
			[]permission{{Allow: true, PathExact: place, Headers: []registry.IntentionHeader{{Name: "X-Team", Exact: "a"}}}}, false, list, []string{"x-team: a"}, false,
		},
		"the authority": {
			[]permission{{Allow: true, Headers: []registry.IntentionHeader{{Name: "Host", Exact: "orders"}}}}, false, list, nil, true,
		},
		"a header that asks for nothing": {
			[]permission{{Allow: true, Headers: []registry.IntentionHeader{{Name: "x-team"}}}}, false, list, nil, false,
		},
		"a value too long for an expression is denied": {
			[]permission{{Headers: []registry.IntentionHeader{{Name: "a", Regex: "a+"}}}}, true, list, []string{"a: " + strings.Repeat("a", 8<<10)}, false,
		},
		"a path that a server may take for another": {[]permission{{Allow: true, PathPrefix: "/"}}, false, list + "?x", nil, false},
		"such a path is denied":                     {[]permission{{PathExact: list}}, true, "/shop.Orders/%4cist", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, own := range []bool{true, false} { // the intention's own action means nothing
				in := &registry.Intentions{DefaultAllow: c.byDefault, TrustDomain: "dc.consul", List: []registry.Intention{from("web", own, c.permissions...)}}
				if d := New(nil, in, env).ForID(id(consulWeb)).Decide(c.path, request(c.path, c.metadata...)); d.Allowed != c.want {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

// An RPC has to pass intentions and access policies: a refusal by either is one.
func TestIntentionsAndPolicies(t *testing.T) {
	t.Parallel()
	const intention, orders = `intention "web" to "orders"`, `access policy "orders"`
	for _, c := range []struct {
		allow bool
		rule  string
		by    string
	}{
		{true, "allow from=" + consulWeb, ""},
		{true, "deny from=" + consulWeb, orders},
		{true, "allow from=billing", orders},
		{false, "allow from=" + consulWeb, intention},
		{false, "deny from=" + consulWeb, intention},
	} {
		in := &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{from("web", c.allow)}}
		p := New(NewRules(policy(t, "orders", c.rule)), in, env)
		if d := p.ForID(id(consulWeb)).Decide(list, request(list)); d.By != c.by {
			t.Errorf("%+v: %+v", c, d)
		}
	}
	// Who comes in plaintext is no caller that intentions know, but rules are for it.
	in := &registry.Intentions{TrustDomain: "dc.consul"}
	if d := New(nil, in, env).For(nil).Decide(list, nil); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := New(NewRules(policy(t, "orders", "allow from=web")), in, env).For(nil).Decide(list, nil); d.By != orders {
		t.Errorf("%+v", d)
	}
}

// As long as intentions are not known, nobody passes them.
func TestIntentionsThatAreAwaited(t *testing.T) {
	t.Parallel()
	awaiting := env
	awaiting.AwaitIntentions = true
	p := New(nil, nil, awaiting)
	caller := p.ForID(id(consulWeb))
	d := caller.Decide(list, request(list))
	if got := caller.Message(&d); d.Allowed || got != "this sidecar, which does not know Consul's intentions yet, refuses "+consulWeb {
		t.Errorf("%s", got)
	}
	if d := p.For(nil).Decide(list, request(list)); !d.Allowed {
		t.Errorf("%+v", d)
	}
	// Without a trust domain of their own, they are those of the sidecar's.
	p = New(nil, &registry.Intentions{DefaultAllow: true, List: []registry.Intention{from("web", false)}}, awaiting)
	if d := p.ForID(id("spiffe://example.org/ns/default/dc/dc1/svc/web")).Decide(list, nil); d.Allowed {
		t.Errorf("%+v", d)
	}
}

func TestManyPermissionsAreInOrder(t *testing.T) {
	t.Parallel()
	var permissions []registry.IntentionPermission
	for i := range 100 {
		permissions = append(permissions,
			registry.IntentionPermission{Allow: i%2 == 0, PathExact: fmt.Sprintf("/a.B/M%d", i)},
			registry.IntentionPermission{Allow: i%2 == 1, PathPrefix: fmt.Sprintf("/a.B/M%d", i)})
	}
	p := New(nil, &registry.Intentions{TrustDomain: "dc.consul", List: []registry.Intention{from("web", true, permissions...)}}, env)
	caller := p.ForID(id(consulWeb))
	for path, want := range map[string]bool{
		"/a.B/M0": true, "/a.B/M1": false, "/a.B/M1x": true,
		"/a.B/M22": false, // "/a.B/M2" as a prefix comes before, and denies
		"/a.B/M33": true, "/b": false,
	} {
		if d := caller.Decide(path, request(path)); d.Allowed != want {
			t.Errorf("%s: %+v", path, d)
		}
	}
}
