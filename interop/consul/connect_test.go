package consul

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// identities are the states that the identity of greeter went through.
type identities struct {
	source identity.Source
	states chan *identity.State
	last   *identity.State
}

func watchIdentity(t *testing.T, source *consul.Source) *identities {
	t.Helper()

	i := &identities{source: source.Identity("greeter"), states: make(chan *identity.State, 1000)}
	background(t, func(ctx context.Context) {
		i.source.Watch(ctx, func(s *identity.State) { i.states <- s })
	})

	return i
}

// background runs something until the test ends.
func background(t *testing.T, run func(ctx context.Context)) {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// await waits for a state that holds. On the way none may be without a certificate
// that is valid once there was one.
func (i *identities) await(t *testing.T, what string, holds func(*identity.State) bool) time.Duration {
	t.Helper()

	start := time.Now()
	timeout := time.After(patience)
	for i.last == nil || !holds(i.last) {
		before := i.last
		select {
		case i.last = <-i.states:
		case <-timeout:
			t.Fatalf("never: %s; status %+v", what, i.source.Status())
		}
		if before != nil && before.Certificate != nil {
			if i.last.Certificate == nil {
				t.Fatal("the certificate was lost")
			}
			if !time.Now().Before(before.Expiry()) {
				t.Errorf("the certificate was renewed only after it had expired at %v", before.Expiry())
			}
		}
		if i.last.Certificate != nil {
			verify(t, i.last, i.last)
		}
	}

	return time.Since(start)
}

// verify holds a state's certificate against the roots that another knows.
func verify(t *testing.T, shown, by *identity.State) {
	t.Helper()

	var chain []*x509.Certificate
	for _, der := range shown.Certificate.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, one)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if peer, err := by.Verify(chain, usage, time.Now()); err != nil {
			t.Errorf("the certificate %v", err)
		} else if peer.Service != "greeter" || peer.Datacenter != "dc1" {
			t.Errorf("the certificate is for %+v", peer)
		}
	}
}

func roots(s *identity.State) int { return len(s.Bundles[s.TrustDomain].Roots) }

// Consul dates leaves back by a minute: these are valid for 10 s.
func shortLeaves() map[string]any {
	return map[string]any{"LeafCertTTL": "70s", "SkipValidate": true}
}

func TestCertificatesOfConnect(t *testing.T) {
	t.Parallel()
	agent := Start(t, WithConnect(shortLeaves()))
	source, _ := newSource(t, agent, consul.Config{})
	mine := watchIdentity(t, source)
	quick(t, "the first certificate", mine.await(t, "there is a certificate", func(s *identity.State) bool { return s.Certificate != nil }))
	first := mine.last
	if !strings.HasSuffix(first.ID.String(), ".consul/ns/default/dc/dc1/svc/greeter") || roots(first) != 1 {
		t.Errorf("it is for %s, with %d roots", first.ID, roots(first))
	}

	mine.await(t, "it is renewed", func(s *identity.State) bool { return !s.SameCertificate(first) })
	if left := time.Until(first.Expiry()); left < 2*time.Second || left > 7*time.Second {
		t.Errorf("renewed %v before its end", left)
	}

	// A new root, of another kind. What it signs chains to the old one too.
	before := mine.last
	rotate(t, agent, map[string]any{"PrivateKeyType": "ec", "PrivateKeyBits": 384})
	mine.await(t, "there are two roots", func(s *identity.State) bool { return roots(s) == 2 })
	known := mine.last
	quick(t, "a certificate of the new root", mine.await(t, "there is a certificate of the new root", func(s *identity.State) bool {
		return !s.SameCertificate(before) && len(s.Certificate.Certificate) > 1
	}))
	verify(t, mine.last, before)
	verify(t, before, known)

	// The agent is gone for a while, and has forgotten the certificate when it is back.
	agent.Kill()
	Eventually(t, "the status says that the agent is away", func() bool { return mine.source.Status().Err != nil })
	agent.Start(t)
	last := mine.last
	mine.await(t, "there is a new one when it is back", func(s *identity.State) bool { return !s.SameCertificate(last) })
	Eventually(t, "all is well", func() bool { return mine.source.Status().Err == nil })
	if mine.last.TrustDomain != first.TrustDomain {
		t.Errorf("trust domain %s became %s", first.TrustDomain, mine.last.TrustDomain)
	}
}

// rotate makes Connect's CA one with a new root.
func rotate(t *testing.T, agent *Agent, change map[string]any) {
	t.Helper()

	// While the CA's first leaves are signed it is busy, and says so.
	Eventually(t, "the root is rotated", func() bool {
		config, _, err := agent.Client.Connect().CAGetConfig(nil)
		if err != nil {
			return false
		}
		for key, value := range change {
			config.Config[key] = value
		}
		config.State = nil
		_, err = agent.Client.Connect().CASetConfig(config, nil)
		if err != nil {
			t.Logf("rotate: %v", err)
		}

		return err == nil
	})
}

// intentions are the states that the intentions for greeter went through.
type intentions struct {
	states chan *registry.Intentions
	last   *registry.Intentions
}

func watchIntentions(t *testing.T, source *consul.Source) *intentions {
	t.Helper()

	i := &intentions{states: make(chan *registry.Intentions, 1000)}
	background(t, func(ctx context.Context) {
		source.WatchIntentions(ctx, "greeter", func(s *registry.Intentions) { i.states <- s })
	})

	return i
}

func (i *intentions) await(t *testing.T, what string, holds func(*registry.Intentions) bool) time.Duration {
	t.Helper()

	start := time.Now()
	timeout := time.After(patience)
	for i.last == nil || !holds(i.last) {
		select {
		case i.last = <-i.states:
		case <-timeout:
			t.Fatalf("never: %s; the last are %+v", what, i.last)
		}
	}

	return time.Since(start)
}

// are says whether intentions are these, each as "source>destination allow".
func are(wanted ...string) func(*registry.Intentions) bool {
	return func(s *registry.Intentions) bool {
		var got []string
		for _, one := range s.List {
			got = append(got, fmt.Sprintf("%s>%s %t", one.Service, one.Destination, one.Allow))
		}

		return slices.Equal(got, wanted)
	}
}

func upsert(t *testing.T, agent *Agent, source, destination string, action api.IntentionAction) {
	t.Helper()

	_, err := agent.Client.Connect().IntentionUpsert(&api.Intention{
		SourceName: source, DestinationName: destination, SourceType: api.IntentionSourceConsul, Action: action,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func TestIntentionsOfConnect(t *testing.T) {
	t.Parallel()
	agent := Start(t, WithConnect(nil))
	source, _ := newSource(t, agent, consul.Config{})
	greeter := watchIntentions(t, source)
	greeter.await(t, "there are none", are())
	if !greeter.last.DefaultAllow || !strings.HasSuffix(greeter.last.TrustDomain, ".consul") {
		t.Errorf("without ACLs: %+v", greeter.last)
	}

	// Created, outranked, changed and deleted, each of them seen soon.
	upsert(t, agent, "*", "*", api.IntentionActionDeny)
	quick(t, "one for all", greeter.await(t, "all are denied", are("*>* false")))
	upsert(t, agent, "web", "greeter", api.IntentionActionAllow)
	upsert(t, agent, "*", "greeter", api.IntentionActionDeny)
	upsert(t, agent, "batch", "*", api.IntentionActionAllow)
	upsert(t, agent, "web", "farewell", api.IntentionActionAllow)
	quick(t, "four more", greeter.await(t, "they are in order", are("web>greeter true", "*>greeter false", "batch>* true", "*>* false")))
	asConsul(t, agent, greeter.last, "web", "batch", "other")
	upsert(t, agent, "web", "greeter", api.IntentionActionDeny)
	quick(t, "a change", greeter.await(t, "it has changed", are("web>greeter false", "*>greeter false", "batch>* true", "*>* false")))
	for _, one := range []string{"web", "*"} {
		if _, err := agent.Client.Connect().IntentionDeleteExact(one, "greeter", nil); err != nil {
			t.Fatal(err)
		}
	}
	quick(t, "two less", greeter.await(t, "they are gone", are("batch>* true", "*>* false")))
	asConsul(t, agent, greeter.last, "web", "batch", "other")

	// For single requests, and with a JWT, of which Consul's own library says nothing.
	write := func(entry api.ConfigEntry) {
		t.Helper()
		if _, _, err := agent.Client.ConfigEntries().Set(entry, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "greeter", Protocol: "grpc"})
	write(&api.JWTProviderConfigEntry{Kind: api.JWTProvider, Name: "okta", Issuer: "x", JSONWebKeySet: &api.JSONWebKeySet{
		Local: &api.LocalJWKS{JWKS: "eyJrZXlzIjogW119Cg=="},
	}})
	okta := &api.IntentionJWTRequirement{Providers: []*api.IntentionJWTProvider{{Name: "okta"}}}
	write(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "greeter", Sources: []*api.SourceIntention{
		{Name: "web", Permissions: []*api.IntentionPermission{
			{Action: api.IntentionActionDeny, HTTP: &api.IntentionHTTPPermission{PathExact: "/helloworld.Greeter/Admin"}},
			{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{PathPrefix: "/helloworld.Greeter/Token"}, JWT: okta},
			{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{
				PathPrefix: "/helloworld.Greeter/", Methods: []string{"post"}, Header: []api.IntentionHTTPHeaderPermission{{Name: "x-team", Prefix: "blue", Invert: true}},
			}},
		}},
	}})
	quick(t, "permissions", greeter.await(t, "they are there", func(s *registry.Intentions) bool {
		return len(s.List) > 0 && len(s.List[0].Permissions) == 3
	}))
	wanted := []registry.IntentionPermission{
		{PathExact: "/helloworld.Greeter/Admin"},
		{PathPrefix: "/helloworld.Greeter/Token"}, // whoever asks for it is refused
		{Allow: true, PathPrefix: "/helloworld.Greeter/", Methods: []string{"POST"}, Headers: []registry.IntentionHeader{{Name: "x-team", Prefix: "blue", Invert: true}}},
	}
	if got := greeter.last.List[0]; got.Service != "web" || fmt.Sprint(got.Permissions) != fmt.Sprint(wanted) {
		t.Errorf("permissions: %+v, want %+v", got, wanted)
	}
	write(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "greeter", JWT: okta, Sources: []*api.SourceIntention{
		{Name: "web", Action: api.IntentionActionAllow},
	}})
	quick(t, "a JWT for all", greeter.await(t, "nobody is allowed", func(s *registry.Intentions) bool {
		return are("web>greeter false", "batch>* true", "*>* false")(s) && len(s.List[0].Permissions) == 0
	}))

	// What is known holds while the agent is away, and what was done meanwhile counts.
	agent.Kill()
	Eventually(t, "the source says that the agent is away", func() bool { return !source.Status().Connected })
	agent.Start(t)
	if _, err := agent.Client.Connect().IntentionDeleteExact("*", "*", nil); err != nil {
		t.Fatal(err)
	}
	greeter.await(t, "the last change is seen", are("web>greeter false", "batch>* true"))
}

// asConsul holds what intentions decide for some callers against what Consul says.
func asConsul(t *testing.T, agent *Agent, known *registry.Intentions, callers ...string) {
	t.Helper()

	for _, caller := range callers {
		wanted, _, err := agent.Client.Connect().IntentionCheck(&api.IntentionCheck{Source: caller, Destination: "greeter"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := known.DefaultAllow
		if i := slices.IndexFunc(known.List, func(i registry.Intention) bool { return i.Service == caller || i.Service == "*" }); i >= 0 {
			got = known.List[i].Allow
		}
		if got != wanted {
			t.Errorf("%s may call greeter: %t, but Consul says %t", caller, got, wanted)
		}
	}
}

func TestDefaultOfIntentions(t *testing.T) {
	t.Parallel()
	const (
		write = `service "greeter" { policy = "write" }`
		read  = `service "greeter" { policy = "read" }`
	)
	type token struct {
		rules string // "" for no token
		allow bool
	}
	for name, test := range map[string]struct {
		options []Option
		// tokens are tried in this order: an agent gives a certificate that it has to
		// whoever asks for it.
		tokens []token
	}{
		"ACLs deny":                           {[]Option{WithACLs()}, []token{{write, false}}},
		"no ACLs, but a policy that denies":   {[]Option{WithDefaultIntention("deny")}, []token{{"", false}}},
		"ACLs deny, but a policy that allows": {[]Option{WithACLs(), WithDefaultIntention("allow")}, []token{{read, false}, {write, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := Start(t, append(test.options, WithConnect(nil))...)
			for _, one := range test.tokens {
				secret := ""
				if one.rules != "" {
					secret = agent.Token(t, one.rules)
				}
				source, log := newSource(t, agent, consul.Config{Token: secret})
				greeter := watchIntentions(t, source)
				greeter.await(t, "they are known", func(*registry.Intentions) bool { return true })
				if greeter.last.DefaultAllow != one.allow {
					t.Errorf("%q: allowed by default: %t, want %t", one.rules, greeter.last.DefaultAllow, one.allow)
				}

				// A token that may not be greeter gets no certificate for it.
				mine := watchIdentity(t, source)
				if one.rules != read {
					mine.await(t, "there is a certificate", func(s *identity.State) bool { return s.Certificate != nil })

					continue
				}
				Eventually(t, "the status says what the token lacks", func() bool {
					err := mine.source.Status().Err

					return err != nil && strings.HasSuffix(err.Error(), `add to its policy: service "greeter" { policy = "write" }`)
				})
				if len(log.with("may not get a certificate for service")) != 1 {
					t.Error("the log does not say so once")
				}
			}
		})
	}
}

func TestSidecarsOfConnectAreFound(t *testing.T) {
	t.Parallel()
	agent := Start(t, WithConnect(nil))
	register := func(r *api.AgentServiceRegistration) {
		t.Helper()
		if err := agent.Client.Agent().ServiceRegister(r); err != nil {
			t.Fatal(err)
		}
	}
	sidecar := func(id string, port int, meta map[string]string) {
		t.Helper()
		register(&api.AgentServiceRegistration{ID: id, Name: "greeter", Port: port})
		register(&api.AgentServiceRegistration{
			Kind: api.ServiceKindConnectProxy, ID: id + "-sidecar-proxy", Name: "greeter-sidecar-proxy", Port: port + 1, Meta: meta,
			Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: "greeter", DestinationServiceID: id},
		})
	}
	sidecar("a-envoy", 1000, nil)
	sidecar("b-strict", 2000, map[string]string{"pillion": "mtls"})
	sidecar("c-permissive", 3000, map[string]string{"pillion": "permissive"})
	sidecar("d-plain", 4000, map[string]string{"pillion": "plain"})
	register(&api.AgentServiceRegistration{ID: "e-native", Name: "greeter", Port: 5000, Connect: &api.AgentServiceConnect{Native: true}})
	register(&api.AgentServiceRegistration{ID: "f-alone", Name: "greeter", Port: 6000})

	leaf, _, err := agent.Client.Agent().ConnectCALeaf("greeter", nil)
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := agent.Client.Agent().ConnectCARoots(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.ReplaceAll(leaf.ServiceURI, found.TrustDomain, "{trust_domain}")

	for _, connect := range []bool{false, true} {
		source, _ := newSource(t, agent, consul.Config{Connect: connect})
		greeter := watch(t, source, "greeter")
		greeter.await(t, "all are found", func(s *registry.Service) bool { return s != nil && len(s.Endpoints) == 6 })
		var got []string
		for _, e := range greeter.last.Endpoints {
			line := e.Address[strings.LastIndexByte(e.Address, ':')+1:] + " " + e.Security.String()
			if len(e.Identities) > 0 || e.ServerName != "" {
				line += fmt.Sprint(" ", e.Identities, " ", e.ServerName)
			}
			got = append(got, line)
		}
		wanted := []string{"1000 plaintext", "2001 mtls", "3001 permissive", "4001 plaintext", "5000 plaintext", "6000 plaintext"}
		if connect {
			proves := " [" + id + "] greeter.default.dc1.internal.{trust_domain}"
			wanted = []string{"1001 mtls" + proves, "2001 mtls" + proves, "3001 permissive" + proves, "4001 plaintext", "5000 mtls" + proves, "6000 plaintext"}
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("connect %t: got\n%s\nwant\n%s", connect, strings.Join(got, "\n"), strings.Join(wanted, "\n"))
		}
	}
}
