package mesh

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// real starts a sidecar with an inbound side that listens on a socket and speaks mutual
// TLS; without a state it has no identity.
func (r *rig) real(id string, state *identity.State, change func(*Options)) (*side, *identitytest.Source) {
	t := r.t
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var security *Security
	var source *identitytest.Source
	var in *inbound.Security
	if state != nil {
		var keeper *identity.Keeper
		keeper, source = identitytest.Keeper(t, state)
		tls := mtls.New(mtls.Options{Keeper: keeper})
		t.Cleanup(tls.Close)
		security = &Security{TLS: tls, Keeper: keeper, Inbound: Strict, Strict: true}
		in = &inbound.Security{TLS: tls, Keeper: keeper, Mode: mtls.Strict}
	}
	s := r.add(id, func(o *Options) {
		o.Service, o.Address, o.Dial, o.Security = id, l.Addr().String(), nil, security
		if change != nil {
			change(o)
		}
	})
	cfg := h2.Config{Budget: h2.NewBudget(1 << 22)}.WithDefaults()
	p := inbound.New(inbound.Options{
		Service: id, Address: "127.0.0.1:1", HTTP2: &cfg, Mesh: s.Dial, Security: in,
		Metrics: telemetry.NewMetrics(telemetry.Inbound), Counters: new(telemetry.Counters),
	})
	go func() { _ = p.Serve(l) }()
	t.Cleanup(func() {
		s.Close(context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("the inbound side of %s: %v", id, err)
		}
	})
	return s, source
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Over sockets and mutual TLS: sidecars report as who they are; one whose identity is
// renewed goes on; those of whom the mesh knows nothing are refused.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	r := newRig(t)
	elected, source := r.real("elected", ca.State(ca.Issue("/svc/elected")), nil)
	elected.Set(greeter, true)
	eventually(t, "somebody is elected", func() bool { return r.leader() != nil })
	l := r.leader()
	never := func(o *Options) { o.Candidacy = Never }
	web, webSource := r.real("web", ca.State(ca.Issue("/svc/web")), never)
	odd, _ := r.real("odd", ca.State(ca.Issue("/of/another/form")), never)
	foreign := identitytest.CA(t, "mesh.test")
	stranger, _ := r.real("stranger", foreign.State(foreign.Issue("/svc/stranger")), never)
	plain, _ := r.real("plain", nil, never)
	for _, s := range []*side{web, odd, stranger, plain} {
		s.count(1, false)
		s.Set(greeter, true)
	}
	here := func(want ...string) func() bool {
		return func() bool { return slices.Equal(l.ids(), want) }
	}
	eventually(t, "those of the mesh report", here("elected", "odd", "web"))
	l.mu.Lock()
	for _, from := range l.hellos {
		want := map[string]string{"elected": "elected", "web": "web", "odd": ""}[from.GetId()]
		if from.GetService() != want {
			t.Errorf("%s says that it is of service %q, want %q", from.GetId(), from.GetService(), want)
		}
	}
	l.mu.Unlock()
	l.say("new", 1)
	eventually(t, "they know what was decided", func() bool { return web.number("new") == 1 && odd.number("new") == 1 })
	for s, why := range map[*side]string{stranger: "certificate", plain: "cannot be reported to"} {
		eventually(t, s.id+" says what is wrong", func() bool {
			p := s.Problems()
			return len(p) == 1 && strings.Contains(p[0], why) && !strings.Contains(p[0], "\n")
		})
	}
	if evidence, err := web.Evidence(t.Context(), greeter, "new"); err != nil || evidence.GetWaiting() != "counted by elected" {
		t.Errorf("web is told %v, %v", evidence, err)
	}

	// The caller is not believed any more: nothing more is taken of it, until it is.
	source.Set(foreign.State(ca.Issue("/svc/elected")))
	eventually(t, "who is not believed any more is cut off", here("elected"))
	source.Set(ca.State(ca.Issue("/svc/elected")))
	eventually(t, "who is believed again reports", here("elected", "odd", "web"))
	_ = webSource

	// Who is elected becomes somebody else: it has to be elected as such.
	source.Set(ca.State(ca.Issue("/svc/other")))
	eventually(t, "it is elected as who it is now", func() bool {
		now := r.leader()
		return now != nil && now != l && slices.Equal(now.ids(), []string{"elected", "odd", "web"})
	})
	if st := web.Status(); st[0].Leader.GetIdentity() != "spiffe://mesh.test/svc/other" || !st[0].Leader.GetTls() {
		t.Errorf("web reports to %v", st[0].Leader)
	}
}

// Nobody is reported to who does not prove to be whom the lock names, nor is one of
// another trust domain.
func TestSomebodyElseIsElected(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	other := identitytest.CA(t, "other.test")
	for name, c := range map[string]struct{ says, why string }{
		"another":              {"spiffe://mesh.test/svc/boss", "spiffe://mesh.test/svc/elected"},
		"another trust domain": {"spiffe://other.test/svc/elected", "another trust domain"},
		"no ID":                {"elected", "not a SPIFFE ID"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			never := func(o *Options) { o.Candidacy = Never }
			elected, _ := r.real("elected", ca.State(ca.Issue("/svc/elected"), other), never)
			web, _ := r.real("web", ca.State(ca.Issue("/svc/web"), other), never)
			lock(t, r, `{"id": "elected", "address": "`+elected.o.Address+`", "tls": true, "identity": "`+c.says+`"}`)
			web.Set(greeter, true)
			eventually(t, "it says so", func() bool {
				p := web.Problems()
				return len(p) == 1 && strings.Contains(p[0], c.why)
			})
		})
	}
}
