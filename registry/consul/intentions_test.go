package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/registry"
)

// newIntentionAgent is an agent with Connect that has these intentions.
func newIntentionAgent(t *testing.T, intentions string) *fakeAgent {
	t.Helper()

	fake := newFakeAgent()
	fake.connect.roots = rootList(identitytest.CA(t, clusterDomain))
	fake.connect.intentions = intentions
	fake.connect.authorize = verdict(false)

	return fake
}

const webAllowed = `[{"SourceName":"web","SourceNS":"default","SourceType":"consul","DestinationNS":"default","DestinationName":"greeter","Action":"allow","Precedence":9}]`

func TestIntentionsAreWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newIntentionAgent(t, "[]")
		source, _ := newFakeSource(t, fake, Config{Datacenter: "dc2"})
		book := watchIntentions(t, source)
		after(time.Second)
		none := &registry.Intentions{TrustDomain: clusterDomain, List: []registry.Intention{}}
		web := registry.Intention{Service: "web", Namespace: "default", Partition: "default", Allow: true, Destination: "greeter"}
		allowed := &registry.Intentions{TrustDomain: clusterDomain, List: []registry.Intention{web}}
		want(t, "without any", *book.all()[0], *none)

		fake.change(func() { fake.connect.intentions = webAllowed })
		after(time.Second)
		want(t, "with one", *book.all()[1], *allowed)

		// News about something else says nothing new.
		fake.change(func() {})
		after(time.Second)
		want(t, "states", len(book.all()), 2)

		// While the agent is away, what was known holds; and what holds by default is
		// asked again, for it changes by a restart.
		fake.failWith(refuse)
		after(time.Hour)
		want(t, "states while the agent is away", len(book.all()), 2)
		fake.change(func() { fake.fault = nil; fake.connect.authorize = verdict(true) })
		after(2 * failureMost)
		open := *allowed
		open.DefaultAllow = true
		want(t, "once it is back", *book.all()[2], open)

		fake.change(func() { fake.connect.intentions = "null" })
		after(time.Second)
		want(t, "states", len(book.all()), 4)
		if last := book.all()[3]; len(last.List) != 0 {
			t.Errorf("after the last went: %+v", last)
		}
		book.stop()
		after(2 * longWait)
		want(t, "queries at the end", source.Status().Queries, 0)
	})
}

func TestDefaultOfIntentions(t *testing.T) {
	t.Parallel()
	saying := func(authorized bool, reason string) func(string, string) (int, any) {
		return func(string, string) (int, any) {
			return http.StatusOK, map[string]any{"Authorized": authorized, "Reason": reason}
		}
	}
	failing := func(status int, text string) func(string, string) (int, any) {
		return func(string, string) (int, any) { return status, text }
	}
	const denied = `Permission denied: token with AccessorID 'x' lacks permission 'service:write' on "greeter"`

	for _, test := range []struct {
		name      string
		acl       string // the header
		authorize func(string, string) (int, any)
		wanted    string // "none" where nothing may be handed over
		problem   string
	}{
		{"ACLs allow", "allow", verdict(true), "true", ""},
		{"ACLs deny", "deny", verdict(false), "false", ""},
		{"an agent's own policy denies", "allow", saying(false, "Default intention policy"), "false", ""},
		{"an agent's own policy allows", "deny", saying(true, "Default intention policy"), "true", ""},
		{"an intention for all namespaces hides it, ACLs allow", "allow", saying(false, "Matched L4 intention: x"), "true", ""},
		{"an intention for all namespaces hides it, ACLs deny", "deny", saying(true, "Matched L4 intention: x"), "false", ""},
		{"the token may not ask, ACLs allow", "allow", failing(403, denied), "false", `service "greeter" { policy = "write" }`},
		{"the token may not ask, ACLs deny", "deny", failing(403, denied), "false", ""},
		{"the token may not ask, no header", "", failing(403, denied), "false", ""},
		{"it cannot be told", "allow", failing(500, "No cluster leader"), "none", "No cluster leader"},
		{"nonsense", "allow", failing(200, "hello"), "none", "greeter"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newIntentionAgent(t, webAllowed)
				fake.headers["X-Consul-Default-Acl-Policy"] = test.acl
				fake.connect.authorize = test.authorize
				source, _ := newFakeSource(t, fake, Config{})
				book := watchIntentions(t, source)
				after(30 * time.Second)
				got := "none"
				if all := book.all(); len(all) > 0 {
					got = fmt.Sprint(all[len(all)-1].DefaultAllow)
				}
				want(t, "default", got, test.wanted)
				problems := ""
				for _, problem := range source.Status().Problems {
					problems += problem.Text
				}
				if (test.problem == "") != (problems == "") || !strings.Contains(problems, test.problem) {
					t.Errorf("problems: %q, want %q", problems, test.problem)
				}
			})
		})
	}
}

func TestIntentionsInAPartition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newIntentionAgent(t, "[]")
		asked := ""
		fake.connect.authorize = func(_, caller string) (int, any) {
			asked = caller

			return http.StatusOK, map[string]any{"Reason": "Default"}
		}
		source, _ := newFakeSource(t, fake, Config{Partition: "part"})
		watchIntentions(t, source)
		after(time.Second)
		want(t, "asked about", asked, "spiffe://"+clusterDomain+"/ap/part/ns/"+nowhere+"/dc/dc/svc/nobody")
	})
}

func TestIntentionsNeedAPermission(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newIntentionAgent(t, "[]")
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "intentions") {
				return respond(403, nil, `Permission denied: token with AccessorID 'x' lacks permission 'intention:read' on "greeter"`), nil
			}

			return nil, errPass
		})
		source, log := newFakeSource(t, fake, Config{})
		book := watchIntentions(t, source)
		after(time.Minute)
		want(t, "states", len(book.all()), 0)
		want(t, "lines", len(log.with(`the ACL token may not read the intentions for service \"greeter\"`)), 1)
	})
}

// parsed is what an answer becomes.
func parsed(t testing.TB, text string) []registry.Intention {
	t.Helper()

	var found []*intention
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatal(err)
	}

	return intentionsOf(found)
}

func TestIntentionsAreInOrderOfPrecedence(t *testing.T) {
	t.Parallel()
	one := func(source, destination string, precedence int) string {
		return fmt.Sprintf(`{"SourceName":%q,"SourceNS":"default","DestinationName":%q,"DestinationNS":"default","Precedence":%d}`, source, destination, precedence)
	}
	ordered := []string{
		one("api", "greeter", 9), one("web", "greeter", 9), one("*", "greeter", 8), one("web", "*", 6), one("*", "*", 5),
	}
	wanted := "[api>greeter web>greeter *>greeter web>* *>*]"
	rapid.Check(t, func(rt *rapid.T) {
		shuffled := rapid.Permutation(ordered).Draw(rt, "order")
		got := []string{}
		for _, i := range parsed(t, "["+strings.Join(shuffled, ",")+"]") {
			got = append(got, i.Service+">"+i.Destination)
		}
		if fmt.Sprint(got) != wanted {
			rt.Fatalf("got %v, want %s", got, wanted)
		}
	})
}

func TestSourcesOfIntentions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text, wanted string // "partition/namespace/service peer allow"
	}{
		{"a service", `{"SourceName":"web","Action":"allow"}`, "[default/default/web  true]"},
		{"denied", `{"SourceName":"web","Action":"deny"}`, "[default/default/web  false]"},
		{"an action that is none", `{"SourceName":"web","Action":"Allow"}`, "[default/default/web  false]"},
		{"all of a namespace", `{"SourceName":"*","SourceNS":"team","Action":"allow"}`, "[default/team/*  true]"},
		{"all", `{"SourceName":"*","SourceNS":"*","SourcePartition":"part","Action":"allow"}`, "[part/*/*  true]"},
		{"of a peer", `{"SourceName":"web","SourcePeer":"east","Action":"allow"}`, "[default/default/web east true]"},
		{"of a sameness group", `{"SourceName":"web","SourceSamenessGroup":"group","Action":"allow"}`, "[]"},
		{"of an unknown kind", `{"SourceName":"web","SourceType":"external-uri","Action":"allow"}`, "[]"},
		{"no name", `{"Action":"allow"}`, "[]"},
		{"null", `null`, "[]"},
		{"with a JWT", `{"SourceName":"web","Action":"allow","JWT":{"Providers":[{"Name":"okta"}]}}`, "[default/default/web  false]"},
		{"with no JWT", `{"SourceName":"web","Action":"allow","JWT":{"Providers":[]}}`, "[default/default/web  true]"},
		{"with a later Consul's fields", `{"SourceName":"web","Action":"allow","New":1}`, "[default/default/web  true]"},
	} {
		got := []string{}
		for _, i := range parsed(t, "["+test.text+"]") {
			got = append(got, fmt.Sprintf("%s/%s/%s %s %t", i.Partition, i.Namespace, i.Service, i.Peer, i.Allow))
		}
		want(t, test.name, fmt.Sprint(got), test.wanted)
	}
}

func TestPermissionsOfIntentions(t *testing.T) {
	t.Parallel()
	type permission = registry.IntentionPermission
	type header = registry.IntentionHeader
	for _, test := range []struct {
		name, text string
		wanted     permission
	}{
		{"all requests", `{"Action":"allow"}`, permission{Allow: true}},
		{"a path", `{"Action":"allow","HTTP":{"PathExact":"/a.A/B"}}`, permission{Allow: true, PathExact: "/a.A/B"}},
		{"a prefix", `{"Action":"deny","HTTP":{"PathPrefix":"/a."}}`, permission{PathPrefix: "/a."}},
		{"an expression", `{"Action":"allow","HTTP":{"PathRegex":"/a.*","Methods":["get","POST"]}}`, permission{Allow: true, PathRegex: "/a.*", Methods: []string{"GET", "POST"}}},
		{"headers", `{"Action":"allow","HTTP":{"Header":[{"Name":"X-A","Exact":"b","IgnoreCase":true},{"Name":"x-b","Prefix":"c","Invert":true},{"Name":"x-c","Suffix":"d"},{"Name":"x-d","Contains":"e"},{"Name":"x-e","Regex":"f+","IgnoreCase":true},{"Name":"x-f","Present":true}]}}`,
			permission{Allow: true, Headers: []header{
				{Name: "x-a", Exact: "b", IgnoreCase: true}, {Name: "x-b", Prefix: "c", Invert: true}, {Name: "x-c", Suffix: "d"},
				{Name: "x-d", Contains: "e"}, {Name: "x-e", Regex: "f+"}, {Name: "x-f", Present: true},
			}}},
		{"a JWT", `{"Action":"allow","HTTP":{"PathPrefix":"/a"},"JWT":{"Providers":[{"Name":"okta"}]}}`, permission{PathPrefix: "/a"}},
		{"denied with a JWT", `{"Action":"deny","HTTP":{"PathPrefix":"/a"},"JWT":{"Providers":[{"Name":"okta"}]}}`, permission{PathPrefix: "/a"}},
		{"a bad expression", `{"Action":"allow","HTTP":{"PathRegex":"("}}`, permission{Allow: true, PathRegex: "(", Unsupported: "a regular expression that cannot be read"}},
		{"a header's bad expression", `{"Action":"deny","HTTP":{"Header":[{"Name":"a","Regex":"["}]}}`, permission{Headers: []header{{Name: "a", Regex: "["}}, Unsupported: "a regular expression that cannot be read"}},
		{"half a header", `{"Action":"allow","HTTP":{"Header":[{"Name":"a"}]}}`, permission{Allow: true, Headers: []header{{Name: "a"}}, Unsupported: "a condition on a header that does not say what the header has to be"}},
		{"a later Consul's condition", `{"Action":"allow","HTTP":{"PathPrefix":"/a","Query":"x"}}`, permission{Allow: true, PathPrefix: "/a", Unsupported: "a condition that is not known here"}},
		{"nonsense", `7`, permission{Unsupported: "a condition that is not known here"}},
		{"null", `null`, permission{}},
	} {
		made := parsed(t, `[{"SourceName":"web","Permissions":[`+test.text+`]}]`)
		if got := made[0].Permissions[0]; !reflect.DeepEqual(got, test.wanted) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.wanted)
		}
	}
	made := parsed(t, `[{"SourceName":"web","JWT":{"Providers":[{}]},"Permissions":[{"Action":"allow"},{"Action":"deny"}]}]`)
	if slices.ContainsFunc(made[0].Permissions, func(p registry.IntentionPermission) bool { return p.Allow }) {
		t.Errorf("what asks for a JWT allows something: %+v", made)
	}
}

// Whatever Consul answers, nothing is allowed that no action "allow" stands for, and
// the order is that of precedence.
func FuzzIntentions(f *testing.F) {
	f.Add([]byte(webAllowed))
	f.Add([]byte(`[{"SourceName":"*","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Header":[{"Name":"a","Exact":"b"}]}}]},null]`))
	f.Add([]byte(`[{"SourceName":"a","Action":"deny","JWT":{"Providers":[null]},"Permissions":[7,null,{"HTTP":null}],"Precedence":-1}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var found []*intention
		if json.Unmarshal(text, &found) != nil {
			return
		}
		made := intentionsOf(found)
		allows := strings.Contains(string(text), `allow`) || strings.Contains(string(text), `\u00`)
		for _, i := range made {
			open := i.Allow || slices.ContainsFunc(i.Permissions, func(p registry.IntentionPermission) bool { return p.Allow })
			if open && !allows || i.Service == "" || i.Namespace == "" || i.Partition == "" {
				t.Fatalf("%s became %+v", text, i)
			}
		}
		if len(made) > len(found) {
			t.Fatal("there are more than there were")
		}
	})
}
