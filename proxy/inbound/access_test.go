package inbound

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inboundWith returns an inbound side whose identity is a keeper's, nil for none.
func inboundWith(t *testing.T, keeper *identity.Keeper, set func(*Options)) *Proxy {
	t.Helper()
	cfg := h2.Config{Budget: h2.NewBudget(1 << 20)}.WithDefaults()
	o := Options{
		Service: "greeter", Address: "127.0.0.1:1", HTTP2: &cfg,
		Metrics: telemetry.NewMetrics(telemetry.Inbound), Counters: new(telemetry.Counters),
	}
	if keeper != nil {
		tls := mtls.New(mtls.Options{Keeper: keeper})
		t.Cleanup(tls.Close)
		o.Security = &Security{TLS: tls, Keeper: keeper}
	}
	if set != nil {
		set(&o)
	}
	p := New(o)
	t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return p
}

func compile(t *testing.T, yaml string) *policy.Set {
	t.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte("policies:\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	set, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return set
}

// lets says whether a caller may call a method now.
func (p *Proxy) lets(id string) bool {
	in := p.access.gate.Policy()
	if in == nil {
		return true
	}
	peer := spiffeid.ID{}
	if id != "" {
		peer = spiffeid.RequireFromString(id)
	}
	decision := in.ForID(peer).Decide("/a.B/C", nil)
	return decision.Allowed
}

// A service that a rule names is whoever proves its SPIFFE ID: by the template, or, where
// the sidecar's own is Consul's, in Consul's form, in any datacenter.
func TestServicesInRules(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	const consul = "/ns/default/dc/dc1/svc/"
	for name, c := range map[string]struct {
		own, template string
		lets, refuses []string
	}{
		"by default": {
			"/svc/greeter", "", []string{"spiffe://mesh.test/svc/web"},
			[]string{"", "spiffe://mesh.test/svc/other", "spiffe://other.test/svc/web", "spiffe://mesh.test/ns/default/dc/dc1/svc/web"},
		},
		"by a template": {
			"/svc/greeter", "spiffe://{trust_domain}/prod/{service}/x", []string{"spiffe://mesh.test/prod/web/x"},
			[]string{"spiffe://mesh.test/svc/web", "spiffe://mesh.test/prod/web"},
		},
		"by Consul": {
			consul + "greeter", "", []string{"spiffe://mesh.test" + consul + "web", "spiffe://mesh.test/ns/default/dc/dc2/svc/web"},
			[]string{"spiffe://mesh.test/svc/web", "spiffe://mesh.test/ns/other/dc/dc1/svc/web", "spiffe://mesh.test/ap/p/ns/default/dc/dc1/svc/web", "spiffe://other.test" + consul + "web"},
		},
		"by Consul, in a partition": {
			"/ap/p" + consul + "greeter", "", []string{"spiffe://mesh.test/ap/p" + consul + "web"}, []string{"spiffe://mesh.test" + consul + "web"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keeper, source := identitytest.Keeper(t, nil)
			p := inboundWith(t, keeper, func(o *Options) { o.Security.ServiceID = c.template })
			p.SetPolicies(compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [web]}]}}"))
			for _, id := range append(c.lets, c.refuses...) {
				if p.lets(id) {
					t.Errorf("%q is let in while nobody knows the own trust domain", id)
				}
			}
			source.Set(ca.State(ca.Issue(c.own)))
			for deadline := time.Now().Add(10 * time.Second); !p.lets(c.lets[0]) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond) // until the proxy has heard of it
			}
			for _, id := range c.lets {
				if !p.lets(id) {
					t.Errorf("%q is refused", id)
				}
			}
			for _, id := range c.refuses {
				if p.lets(id) {
					t.Errorf("%q is let in", id)
				}
			}
		})
	}
}

// Rules and intentions hold together, and each may come and go.
func TestRulesAndIntentions(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	keeper, _ := identitytest.Keeper(t, ca.State(ca.Issue("/ns/default/dc/dc1/svc/greeter")))
	web := "spiffe://mesh.test/ns/default/dc/dc1/svc/web"
	allow := compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [web]}]}}")
	deny := compile(t, "- {name: who, service: greeter, access: {rules: [{action: deny, from: [web]}]}}")
	p := inboundWith(t, keeper, func(o *Options) { o.AwaitIntentions = true })
	for i, step := range []struct {
		do         func()
		web, plain bool
	}{
		{func() {}, false, true}, // nobody knows the intentions yet, which plaintext need not pass
		{func() { p.SetIntentions(&registry.Intentions{DefaultAllow: true}) }, true, true},
		{func() { p.SetPolicies(allow) }, true, false},
		{func() { p.SetIntentions(&registry.Intentions{DefaultAllow: false}) }, false, false},
		{func() {
			p.SetIntentions(&registry.Intentions{List: []registry.Intention{{Service: "web", Namespace: "default", Partition: "default", Allow: true}}})
		}, true, false},
		{func() { p.SetPolicies(deny) }, false, true},
		{func() { p.SetPolicies(nil) }, true, true},
		{func() { p.SetIntentions(nil) }, false, true},
	} {
		step.do()
		if p.lets(web) != step.web || p.lets("") != step.plain {
			t.Errorf("step %d: web is let in: %v, plaintext: %v; want %v, %v", i, p.lets(web), p.lets(""), step.web, step.plain)
		}
	}
}

// What is in force may change in several ways at a time, until the end.
func TestAccessChangesInParallel(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	keeper, source := identitytest.Keeper(t, ca.State(ca.Issue("/svc/greeter")))
	p := inboundWith(t, keeper, nil)
	one := compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [web]}]}}")
	var changes sync.WaitGroup
	for _, change := range []func(int){
		func(i int) { p.SetPolicies([]*policy.Set{one, nil}[i%2]) },
		func(i int) { p.SetIntentions([]*registry.Intentions{{}, nil}[i%2]) },
		func(int) { source.Set(ca.State(ca.Issue("/svc/greeter"))) },
		func(int) { p.lets("spiffe://mesh.test/svc/web") },
	} {
		changes.Go(func() {
			for i := range 50 {
				change(i)
			}
		})
	}
	changes.Wait()
	p.SetPolicies(one)
	if p.lets("spiffe://mesh.test/svc/other") || !p.lets("spiffe://mesh.test/svc/web") {
		t.Error("what was put in force last is not")
	}
}

// What is let through in mode audit is in the log, with who called and who would refuse.
func TestAuditIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := inboundWith(t, nil, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 7 {
		p.access.audited("spiffe://mesh.test/svc/web", "/a.B/C", `access policy "who"`)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if n := strings.Count(text, "\n"); n != 6 || !strings.Contains(text, "left_out=2 last_caller=spiffe://mesh.test/svc/web last_method=/a.B/C") {
		t.Errorf("%d lines, want 5 and one about 2 more:\n%s", n, text)
	}
}
