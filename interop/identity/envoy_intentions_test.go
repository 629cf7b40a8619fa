package identity

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

const testService = "/grpc.testing.TestService/"

// intentionCase is what Consul is told about the callers of a service, and what is to
// come of it. It is the same whoever stands on either side; Envoy to Envoy tells whether
// it is what Consul means.
type intentionCase struct {
	name string
	// of says what holds for a caller; "*" are all others.
	of func(caller string) *api.SourceIntention
	// everyone has an entry for "*", too.
	everyone bool
	want     verdicts
}

func allow(string) *api.SourceIntention {
	return &api.SourceIntention{Action: api.IntentionActionAllow}
}

func deny(string) *api.SourceIntention { return &api.SourceIntention{Action: api.IntentionActionDeny} }

// permit is an intention of permissions.
func permit(list ...*api.IntentionPermission) func(string) *api.SourceIntention {
	return func(string) *api.SourceIntention { return &api.SourceIntention{Permissions: list} }
}

func allowing(what api.IntentionHTTPPermission) *api.IntentionPermission {
	return &api.IntentionPermission{Action: api.IntentionActionAllow, HTTP: &what}
}

func denying(what api.IntentionHTTPPermission) *api.IntentionPermission {
	return &api.IntentionPermission{Action: api.IntentionActionDeny, HTTP: &what}
}

// header is a permission's condition on metadata, for all paths.
func header(h api.IntentionHTTPHeaderPermission) api.IntentionHTTPPermission {
	h.Name = team

	return api.IntentionHTTPPermission{PathPrefix: "/", Header: []api.IntentionHTTPHeaderPermission{h}}
}

var (
	unaryAlone = api.IntentionHTTPPermission{PathExact: testService + "UnaryCall"}
	everything = api.IntentionHTTPPermission{PathPrefix: "/"}
	anyTeam    = verdicts{false, true, true, false, false}
	noTeam     = verdicts{true, false, false, true, true}
)

// intentionCases hold where callers are allowed by default, and where they are not.
var intentionCases = []intentionCase{
	{name: "deny", of: deny, want: all(false)},
	{name: "allow", of: allow, want: all(true)},
	{
		name: "deny all, allow one", everyone: true, want: all(true),
		of: func(caller string) *api.SourceIntention {
			if caller == "*" {
				return deny(caller)
			}

			return allow(caller)
		},
	},
	{
		name: "allow all, deny one", everyone: true, want: all(false),
		of: func(caller string) *api.SourceIntention {
			if caller == "*" {
				return allow(caller)
			}

			return deny(caller)
		},
	},
	{name: "allow a method, deny the rest", of: permit(allowing(unaryAlone), denying(everything)), want: verdicts{true, true, true, false, false}},
	{name: "deny a method, allow the rest", of: permit(denying(unaryAlone), allowing(everything)), want: verdicts{false, false, false, true, true}},
	{name: "the first decides", of: permit(allowing(everything), denying(unaryAlone)), want: all(true)},
	{
		name: "by prefix and expression",
		of: permit(
			denying(api.IntentionHTTPPermission{PathPrefix: testService + "Un"}),
			allowing(api.IntentionHTTPPermission{PathRegex: "/grpc[.]testing[.][^/]+/Full.*"}),
			denying(everything),
		),
		want: verdicts{false, false, false, true, false},
	},
	{name: "by HTTP method", of: permit(denying(api.IntentionHTTPPermission{PathPrefix: "/", Methods: []string{"GET"}}), allowing(everything)), want: all(true)},
	// Of several values each is looked at by itself, and one that matches is enough.
	{name: "metadata that is exact", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "Red-1"})), denying(everything)), want: anyTeam},
	{name: "exact in any case", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "rED-1", IgnoreCase: true})), denying(everything)), want: anyTeam},
	{name: "metadata by prefix, in any case", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Prefix: "rED", IgnoreCase: true})), denying(everything)), want: anyTeam},
	{name: "metadata by suffix", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Suffix: "-1"})), denying(everything)), want: anyTeam},
	{name: "the second of two values", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "Red-2"})), denying(everything)), want: verdicts{false, false, true, false, false}},
	{name: "two values at once", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "Red-1,Red-2"})), denying(everything)), want: all(false)},
	{name: "metadata that contains", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Contains: "d-"})), denying(everything)), want: anyTeam},
	{name: "metadata by expression", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Regex: "Red-[0-9]"})), denying(everything)), want: anyTeam},
	{name: "an expression for a part of it", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Regex: "Red"})), denying(everything)), want: all(false)},
	// Who sends none is not meant.
	{name: "all but exact metadata", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "Blue", Invert: true})), denying(everything)), want: anyTeam},
	{name: "all but metadata that one of them is", of: permit(allowing(header(api.IntentionHTTPHeaderPermission{Exact: "Red-2", Invert: true})), denying(everything)), want: verdicts{false, true, false, false, false}},
	{name: "an expression for a part of the path", of: permit(allowing(api.IntentionHTTPPermission{PathRegex: testService}), denying(everything)), want: all(false)},
	{name: "metadata that is there", of: permit(denying(header(api.IntentionHTTPHeaderPermission{Present: true})), allowing(everything)), want: noTeam},
	{name: "metadata that is not there", of: permit(denying(header(api.IntentionHTTPHeaderPermission{Present: true, Invert: true})), allowing(everything)), want: anyTeam},
}

// defaultCases are those whose end depends on what holds for callers by default.
func defaultCases(allowed bool) []intentionCase {
	return []intentionCase{
		{name: "none", want: all(allowed)},
		{name: "permissions of which none matches", of: permit(allowing(unaryAlone)), want: verdicts{true, true, true, allowed, allowed}},
	}
}

// intend puts the case in force for the services that are called.
func (m *mixedMesh) intend(t testing.TB, c intentionCase) {
	t.Helper()

	callers := map[string][]string{storeService: {webService, greeterService}, greeterService: {webService}}
	for service, callers := range callers {
		if c.of == nil {
			m.remove(t, api.ServiceIntentions, service)

			continue
		}
		if c.everyone {
			callers = append(callers, "*")
		}
		entry := &api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: service}
		for _, caller := range callers {
			source := c.of(caller)
			source.Name = caller
			entry.Sources = append(entry.Sources, source)
		}
		m.write(t, entry)
	}
}

// obey puts the case in force and waits until it is obeyed on all ways.
func (m *mixedMesh) obey(t *testing.T, c intentionCase) {
	t.Helper()

	// What held before could pass for it.
	apart := intentionCase{of: deny, want: all(false)}
	if c.want == apart.want {
		apart = intentionCase{of: allow, want: all(true)}
	}
	for _, c := range []intentionCase{apart, c} {
		m.intend(t, c)
		for _, w := range m.ways {
			w.await(t, c.want)
		}
	}
}

// Intentions hold on both sides of a mesh of Envoys and Pillions, as they do among Envoys.
func TestEnvoyMeshThatDeniesByDefault(t *testing.T) {
	t.Parallel()

	m := startMixedMesh(t, tls12, map[string]any{"default_intention_policy": "deny"})
	for _, c := range append(defaultCases(false), intentionCases[0], intentionCases[1]) {
		t.Run(c.name, func(t *testing.T) { m.obey(t, c) })
	}
}

// As above, and what else becomes of RPCs between Envoys and Pillions. It is one test,
// because a mesh takes its time to start.
func TestEnvoyMesh(t *testing.T) {
	t.Parallel()

	m := startMixedMesh(t, tls13, nil)
	for _, c := range append(defaultCases(true), intentionCases...) {
		t.Run(c.name, func(t *testing.T) { m.obey(t, c) })
	}
	t.Run("a stream ends with its intention", m.streamEnds)
	m.obey(t, intentionCase{of: allow, want: all(true)})
	t.Run("apps are told who calls", m.appsAreTold)
	t.Run("an impostor is found out", m.impostor)
	t.Run("the root is replaced", m.newRoot)
}

// appsAreTold: an app beside a Pillion that an Envoy calls it, whatever the caller
// claims. (Consul's Envoys tell their apps nothing.)
func (m *mixedMesh) appsAreTold(t *testing.T) {
	const forged = "spiffe://evil.test/svc/admin"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "pillion-peer", forged, "x-forwarded-client-cert", "URI="+forged)
	if err := m.ways[envoyToPillion].call(ctx, calls[0]); err != nil {
		t.Fatal(err)
	}
	head := <-m.greeter.heads
	for _, name := range []string{"x-forwarded-client-cert", "pillion-peer"} {
		if said := head[name]; len(said) != 1 || !strings.HasSuffix(said[0], "/svc/"+webService) || strings.Contains(said[0], forged) {
			t.Errorf("Pillion tells its app of a caller that is an Envoy: %s: %q", name, said)
		}
	}
}

// streamEnds: a stream from an Envoy ends when its caller may no longer call.
func (m *mixedMesh) streamEnds(t *testing.T) {
	m.obey(t, intentionCase{of: allow, want: all(true)})
	ctx, cancel := context.WithTimeout(t.Context(), streamPatience)
	defer cancel()
	stream, err := testpb.NewTestServiceClient(m.ways[envoyToPillion].conn).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	m.intend(t, intentionCase{of: deny})
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream of a caller that may no longer call ended: %v", err)
	}
}

// streamPatience bounds the wait for a stream's end.
const streamPatience = 30 * time.Second

// impostor: whoever is registered as a service's sidecar but proves to be another
// service's is not sent anything.
func (m *mixedMesh) impostor(t *testing.T) {
	const bank = "bank"
	if err := m.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: bank, Address: "127.0.0.1", Port: harness.FreePort(t)}); err != nil {
		t.Fatal(err)
	}
	err := m.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Kind: api.ServiceKindConnectProxy, Name: bank + "-sidecar-proxy", Address: "127.0.0.1", Port: portOf(t, m.storeEnvoy.public),
		Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: bank},
	})
	if err != nil {
		t.Fatal(err)
	}

	before := m.store.Calls()
	w := way{conn: load.Dial(t, m.pillion.Outbound, grpc.WithAuthority(bank))}
	defer func() {
		if t.Failed() {
			t.Logf("last: %v", err)
		}
	}()
	consul.Eventually(t, "the impostor is found out", func() bool {
		err = w.call(t.Context(), calls[0])

		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "/svc/"+storeService)
	})
	if !strings.Contains(err.Error(), "/svc/"+bank) {
		t.Errorf("the error does not say who was wanted: %v", err)
	}
	if m.store.Calls() != before {
		t.Error("an app was called by the name of another service")
	}
}

// newRoot: Consul's CA gets a new root while RPCs run on all ways, and nobody notices.
func (m *mixedMesh) newRoot(t *testing.T) {
	var loads []*load.Load
	for _, w := range m.ways {
		loads = append(loads, load.Start(t, w.conn, load.Options{PerSecond: 50, StreamEvery: 10}))
	}
	before := m.root(t)
	const renewed = "certificate is in force"
	had := strings.Count(m.pillion.Output(), renewed)
	consul.Eventually(t, "the root is replaced", func() bool {
		config := &api.CAConfig{Provider: "consul", Config: map[string]any{"PrivateKeyType": "ec", "PrivateKeyBits": 384}}
		_, err := m.agent.Client.Connect().CASetConfig(config, nil)

		return err == nil && m.root(t) != before
	})
	consul.Eventually(t, "the Pillion has a certificate of the new root", func() bool {
		return strings.Count(m.pillion.Output(), renewed) > had
	})
	loads[0].More(t, 2*time.Second)
	for i, l := range loads {
		l.Check(t, m.ways[i].name)
		l.End(t)
	}
}

// root is the ID of the root that Consul signs by.
func (m *mixedMesh) root(t testing.TB) string {
	t.Helper()

	list, _, err := m.agent.Client.Agent().ConnectCARoots(nil)
	if err != nil {
		t.Fatal(err)
	}

	return list.ActiveRootID
}
