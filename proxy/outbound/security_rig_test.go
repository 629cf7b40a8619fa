package outbound_test

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// party is somebody with an identity.
type party struct {
	counters *telemetry.Counters
	keeper   *identity.Keeper
	source   *identitytest.Source
	tls      *mtls.TLS
}

// newParty makes one with a state, nil for none yet.
func newParty(t *testing.T, state *identity.State) *party {
	t.Helper()
	p := &party{counters: new(telemetry.Counters)}
	p.keeper, p.source = identitytest.Keeper(t, state)
	p.tls = mtls.New(mtls.Options{
		Keeper: p.keeper, Inbound: &p.counters.Security[telemetry.Inbound], Outbound: &p.counters.Security[telemetry.Outbound],
		HandshakeTimeout: 3 * time.Second,
	})
	t.Cleanup(p.tls.Close)
	return p
}

func (p *party) inbound(mode mtls.Mode) *inbound.Security {
	if p == nil {
		return nil
	}
	return &inbound.Security{TLS: p.tls, Keeper: p.keeper, Mode: mode}
}

func (p *party) outbound(strict bool) *outbound.Security {
	if p == nil {
		return nil
	}
	return &outbound.Security{TLS: p.tls, Keeper: p.keeper, Strict: strict}
}

// handshakes is how many ended so.
func (p *party) handshakes(side telemetry.Kind, how telemetry.Handshake) uint64 {
	return p.counters.Security[side].Handshakes[how].Load()
}

// inboundOf starts the inbound side before an app.
func inboundOf(t *testing.T, appAddress string, o inbound.Options) (string, *inbound.Proxy) {
	t.Helper()
	cfg := config()
	o.Service, o.Address, o.HTTP2, o.Upstream = "greeter", appAddress, cfg, upstream.Options{HTTP2: cfg}
	o.Metrics = telemetry.NewMetrics(telemetry.Inbound)
	if o.Counters == nil {
		o.Counters = new(telemetry.Counters)
	}
	p := inbound.New(o)
	l := listen(t)
	go func() { _ = p.Serve(l) }()
	t.Cleanup(func() { shutdown(t, p.Shutdown) })
	return l.Addr().String(), p
}

// pair is a client whose RPCs to greeter go through two sidecars over mutual TLS, web's
// and greeter's.
type pair struct {
	grpc_testing.TestServiceClient
	ca           *identitytest.Authority
	web, greeter *party
	out          *outbound.Proxy
	in           *inbound.Proxy
	mesh         *memory.Source
	endpoint     registry.Endpoint
}

func newPair(t *testing.T, app grpc_testing.TestServiceServer, set func(*inbound.Options)) *pair {
	t.Helper()
	ca := identitytest.CA(t, "mesh.test")
	p := &pair{
		ca:  ca,
		web: newParty(t, ca.State(ca.Issue("/svc/web"))), greeter: newParty(t, ca.State(ca.Issue("/svc/greeter"))),
	}
	o := inbound.Options{Security: p.greeter.inbound(mtls.Strict), Counters: p.greeter.counters}
	if set != nil {
		set(&o)
	}
	var beside string
	beside, p.in = inboundOf(t, serveApp(t, app), o)
	p.endpoint = registry.Endpoint{ID: "one", Address: beside, Weight: 1, Security: registry.SecurityMTLS}
	p.mesh = memory.New(&registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{p.endpoint}})
	var cc *grpc.ClientConn
	cc, p.out = meshOf(t, outbound.Options{
		Source: p.mesh, DefaultService: "greeter", Caller: "web", Metrics: telemetry.NewMetrics(telemetry.Outbound),
		Counters: p.web.counters, Security: p.web.outbound(true),
	})
	p.TestServiceClient = grpc_testing.NewTestServiceClient(cc)
	return p
}

func serveApp(t *testing.T, a grpc_testing.TestServiceServer) string {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, a)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// witness is an app that says what it was told of its caller.
type witness struct {
	app
	mu   sync.Mutex
	told []metadata.MD
	left chan error // how long RPCs ended
}

func (w *witness) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	w.mu.Lock()
	w.told = append(w.told, md)
	w.mu.Unlock()
	return w.app.UnaryCall(ctx, r)
}

func (w *witness) EmptyCall(ctx context.Context, _ *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	<-ctx.Done()
	w.left <- ctx.Err()
	return nil, ctx.Err()
}

func (w *witness) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	err := w.app.FullDuplexCall(s)
	if w.left != nil {
		w.left <- err
	}
	return err
}

func (w *witness) calls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.told)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}

// believing is a state that believes several authorities of one trust domain.
func believing(s *identity.State, ca *identitytest.Authority, others ...*identitytest.Authority) *identity.State {
	b := &identity.Bundle{Pool: x509.NewCertPool()}
	for _, a := range append([]*identitytest.Authority{ca}, others...) {
		b.Roots = append(b.Roots, a.Root)
		b.Pool.AddCert(a.Root)
	}
	with := *s
	with.Bundles = map[spiffeid.TrustDomain]*identity.Bundle{ca.TrustDomain: b}
	return &with
}

// compile compiles policies, written as people write them.
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
