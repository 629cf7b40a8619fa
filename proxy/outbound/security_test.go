package outbound_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

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

// RPCs of all kinds go through two sidecars over mutual TLS, and the app is told who
// calls, whatever the caller itself says.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	w := &witness{app: app{name: "one"}, left: make(chan error, 1)}
	p := newPair(t, w, nil)
	ctx := within(t, 30*time.Second)

	forged := metadata.AppendToOutgoingContext(ctx, "pillion-peer", "spiffe://mesh.test/svc/admin", "x-first", "1",
		"pillion-peer", "twice", "x-forwarded-client-cert", "URI=spiffe://mesh.test/svc/admin", "x-last", "2", "pillion-peerage", "kept")
	got, err := p.UnaryCall(forged, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 1<<20)}})
	if err != nil || len(got.GetPayload().GetBody()) != 1<<20 {
		t.Fatalf("unary: %v", err)
	}
	told := w.told[0]
	hash := sha256.Sum256(p.web.keeper.Current().Certificate.Leaf.Raw)
	for key, want := range map[string]string{
		"pillion-peer":            "spiffe://mesh.test/svc/web",
		"x-forwarded-client-cert": "By=spiffe://mesh.test/svc/greeter;Hash=" + hex.EncodeToString(hash[:]) + ";URI=spiffe://mesh.test/svc/web",
		"x-first":                 "1", "x-last": "2", "pillion-peerage": "kept",
	} {
		if got := told.Get(key); !slices.Equal(got, []string{want}) {
			t.Errorf("the app was told %s: %q, want %q", key, got, want)
		}
	}

	stream, err := p.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, n*3000)}}); err != nil {
			t.Fatal(err)
		}
		if r, err := stream.Recv(); err != nil || len(r.GetPayload().GetBody()) != n*3000 {
			t.Fatalf("message %d: %v", n, err)
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	<-w.left

	if _, err := p.EmptyCall(within(t, 100*time.Millisecond), &grpc_testing.Empty{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("an RPC with a deadline ended with %v", err)
	}
	<-w.left
	cancelled, cancel := context.WithCancel(ctx)
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := p.EmptyCall(cancelled, &grpc_testing.Empty{}); status.Code(err) != codes.Canceled {
		t.Errorf("an RPC that was cancelled ended with %v", err)
	}
	if err := <-w.left; !errors.Is(err, context.Canceled) {
		t.Errorf("the app learned of the cancelling as %v", err)
	}

	for side, party := range map[telemetry.Kind]*party{telemetry.Outbound: p.web, telemetry.Inbound: p.greeter} {
		if n := party.handshakes(side, telemetry.HandshakeOK); n != 1 {
			t.Errorf("%d handshakes on the %v side, want 1", n, side)
		}
		if s := &party.counters.Security[side]; s.Secure.Load() != 1 || s.Plaintext.Load() != 0 {
			t.Errorf("%d secure connections and %d in plaintext on the %v side", s.Secure.Load(), s.Plaintext.Load(), side)
		}
	}
	if in := p.in.Peers(); len(in) != 1 || in[0].Peer.ID.Path() != "/svc/web" || in[0].Since.IsZero() {
		t.Errorf("the inbound side's peers are %v", in)
	}
	if out := p.out.Peers(); len(out) != 1 || out[0].Peer.ID.Path() != "/svc/greeter" || out[0].Address != p.endpoint.Address {
		t.Errorf("the outbound side's peers are %v", out)
	}
	callers, _ := p.greeter.counters.Callers.Report()
	if len(callers) != 1 || callers[0].ID != "spiffe://mesh.test/svc/web" || callers[0].Host != "127.0.0.1" || callers[0].RPCs != 4 {
		t.Errorf("callers: %+v", callers)
	}
}

// Whatever the two sides and the registry say, no RPC goes out in plaintext where it was
// not to, and none fails that need not.
func TestFailsClosed(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	w := &witness{app: app{name: "one"}}
	address := serveApp(t, w)
	const (
		off = iota
		permissive
		strict
	)
	modes := []string{"off", "permissive", "strict"}
	var inbounds [3]string
	for mode := range inbounds {
		o := inbound.Options{}
		if mode != off {
			greeter := newParty(t, ca.State(ca.Issue("/svc/greeter")))
			o.Security = greeter.inbound(map[int]mtls.Mode{permissive: mtls.Permissive, strict: mtls.Strict}[mode])
		}
		inbounds[mode], _ = inboundOf(t, address, o)
	}
	for _, c := range []struct {
		out      int
		registry registry.Security
		in       int
		want     string // "tls", "plaintext", or what the error says
	}{
		{off, registry.SecurityUnknown, off, "plaintext"},
		{off, registry.SecurityUnknown, permissive, "plaintext"},
		{off, registry.SecurityUnknown, strict, "no instance"},
		{off, registry.SecurityPlaintext, off, "plaintext"},
		{off, registry.SecurityPermissive, permissive, "plaintext"},
		{off, registry.SecurityMTLS, permissive, "mutual TLS alone, and outbound.tls is off"},
		{off, registry.SecurityMTLS, strict, "mutual TLS alone, and outbound.tls is off"},
		{permissive, registry.SecurityUnknown, off, "plaintext"},
		{permissive, registry.SecurityPlaintext, permissive, "plaintext"},
		{permissive, registry.SecurityPermissive, permissive, "tls"},
		{permissive, registry.SecurityPermissive, strict, "tls"},
		{permissive, registry.SecurityPermissive, off, "speaks no TLS"},
		{permissive, registry.SecurityMTLS, strict, "tls"},
		{permissive, registry.SecurityMTLS, off, "speaks no TLS"},
		{strict, registry.SecurityUnknown, off, "speaks no TLS"},
		{strict, registry.SecurityUnknown, permissive, "tls"},
		{strict, registry.SecurityUnknown, strict, "tls"},
		{strict, registry.SecurityPlaintext, off, "plaintext alone, and outbound.tls is strict"},
		{strict, registry.SecurityPlaintext, permissive, "plaintext alone, and outbound.tls is strict"},
		{strict, registry.SecurityPermissive, permissive, "tls"},
		{strict, registry.SecurityMTLS, off, "speaks no TLS"},
		{strict, registry.SecurityMTLS, strict, "tls"},
	} {
		t.Run(fmt.Sprintf("%s, %v, %s", modes[c.out], c.registry, modes[c.in]), func(t *testing.T) {
			web := newParty(t, ca.State(ca.Issue("/svc/web")))
			o := outbound.Options{
				DefaultService: "greeter", Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: web.counters,
				Source: memory.New(&registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{
					{ID: "one", Address: inbounds[c.in], Weight: 1, Security: c.registry},
				}}),
			}
			if c.out != off {
				o.Security = web.outbound(c.out == strict)
			}
			cc, _ := meshOf(t, o)
			before := w.calls()
			var trailer metadata.MD
			_, err := grpc_testing.NewTestServiceClient(cc).UnaryCall(within(t, 10*time.Second), &grpc_testing.SimpleRequest{}, grpc.Trailer(&trailer))
			secure := web.handshakes(telemetry.Outbound, telemetry.HandshakeOK)
			reached := w.calls() - before
			switch c.want {
			case "tls", "plaintext":
				want := map[string]uint64{"tls": 1}[c.want]
				if err != nil || reached != 1 || secure != want {
					t.Fatalf("%v; %d handshakes; the app got %d RPCs", err, secure, reached)
				}
				if got := len(w.told[before].Get("pillion-peer")); got != int(want) {
					t.Errorf("the app is told of %d callers, want %d", got, want)
				}
			default:
				if status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), c.want) {
					t.Errorf("the RPC failed with %v, want UNAVAILABLE and %q", err, c.want)
				}
				if reached != 0 || secure != 0 {
					t.Errorf("the app got %d RPCs, %d handshakes went well", reached, secure)
				}
			}
		})
	}
}

// An instance that is not who it should be gets no RPC, and the caller is told who it
// proved to be and who was wanted; callers who are not believed are not let in.
func TestStrangers(t *testing.T) {
	t.Parallel()
	ca, other := identitytest.CA(t, "mesh.test"), identitytest.CA(t, "elsewhere.test")
	impostor := identitytest.CA(t, "mesh.test") // of the same name
	good := func() *identity.State { return ca.State(ca.Issue("/svc/greeter")) }
	web := func() *identity.State { return ca.State(ca.Issue("/svc/web")) }
	for name, c := range map[string]struct {
		in, out *identity.State
		ids     []string
		want    string              // "": it is who it should be
		result  telemetry.Handshake // on the outbound side, where it is not OK
	}{
		"right":                   {in: good(), out: web()},
		"right by the registry":   {in: ca.State(ca.Issue("/ns/default/dc/dc1/svc/greeter")), out: web(), ids: []string{"spiffe://{trust_domain}/ns/default/dc/dc1/svc/greeter"}},
		"one of several":          {in: good(), out: web(), ids: []string{"spiffe://{trust_domain}/svc/other", "spiffe://mesh.test/svc/greeter"}},
		"another service":         {in: ca.State(ca.Issue("/svc/other")), out: web(), want: "spiffe://mesh.test/svc/other, but spiffe://mesh.test/svc/greeter is wanted", result: telemetry.HandshakeWrongIdentity},
		"another by the registry": {in: good(), out: web(), ids: []string{"spiffe://{trust_domain}/svc/else"}, want: "but spiffe://mesh.test/svc/else is wanted", result: telemetry.HandshakeWrongIdentity},
		"another trust domain":    {in: other.State(other.Issue("/svc/greeter"), ca), out: web(), want: `trust domain "elsewhere.test", for which there are no roots`, result: telemetry.HandshakeUntrusted},
		"another trust domain that is believed": {
			in: other.State(other.Issue("/svc/greeter"), ca), out: ca.State(ca.Issue("/svc/web"), other),
			want: "but spiffe://mesh.test/svc/greeter is wanted", result: telemetry.HandshakeWrongIdentity,
		},
		"an impostor":               {in: impostor.State(impostor.Issue("/svc/greeter")), out: web(), want: "does not chain", result: telemetry.HandshakeUntrusted},
		"the registry says rubbish": {in: good(), out: web(), ids: []string{"https://mesh.test"}, want: "the registry says", result: telemetry.HandshakeOK},
		"the caller is an impostor": {in: good(), out: func() *identity.State {
			s := impostor.State(impostor.Issue("/svc/web"))
			return &identity.State{Certificate: s.Certificate, ID: s.ID, TrustDomain: s.TrustDomain, Bundles: ca.Bundles()}
		}(), want: "does not accept our certificate", result: telemetry.HandshakeOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &witness{app: app{name: "one"}}
			in, out := newParty(t, c.in), newParty(t, c.out)
			beside, _ := inboundOf(t, serveApp(t, w), inbound.Options{Security: in.inbound(mtls.Strict), Counters: in.counters})
			cc, _ := meshOf(t, outbound.Options{
				DefaultService: "greeter", Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: out.counters, Security: out.outbound(true),
				Source: memory.New(&registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{
					{ID: "one", Address: beside, Weight: 1, Security: registry.SecurityMTLS, Identities: c.ids},
				}}),
			})
			_, err := grpc_testing.NewTestServiceClient(cc).UnaryCall(within(t, 10*time.Second), &grpc_testing.SimpleRequest{})
			if c.want == "" {
				if err != nil || w.calls() != 1 {
					t.Errorf("%v; the app got %d RPCs", err, w.calls())
				}
				return
			}
			if message := status.Convert(err).Message(); status.Code(err) != codes.Unavailable || !strings.Contains(message, c.want) || !strings.Contains(message, beside) {
				t.Errorf("got %v, want UNAVAILABLE, %s and %q", err, beside, c.want)
			}
			if w.calls() != 0 {
				t.Errorf("the app got %d RPCs", w.calls())
			}
			if c.result != telemetry.HandshakeOK && out.handshakes(telemetry.Outbound, c.result) == 0 {
				t.Errorf("no handshake is counted as %v", c.result)
			}
		})
	}
}

// Without a certificate an RPC waits, and goes nowhere in plaintext.
func TestNoCertificateYet(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	w := &witness{app: app{name: "one"}}
	greeter := newParty(t, ca.State(ca.Issue("/svc/greeter")))
	beside, _ := inboundOf(t, serveApp(t, w), inbound.Options{Security: greeter.inbound(mtls.Strict), Counters: greeter.counters})
	web := newParty(t, nil)
	cc, _ := meshOf(t, outbound.Options{
		DefaultService: "greeter", Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: web.counters, Security: web.outbound(false),
		Source: memory.New(&registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{
			{ID: "one", Address: beside, Weight: 1, Security: registry.SecurityPermissive},
		}}),
	})
	client := grpc_testing.NewTestServiceClient(cc)
	if _, err := client.UnaryCall(within(t, 200*time.Millisecond), &grpc_testing.SimpleRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("without a certificate: %v", err)
	}
	if n := greeter.handshakes(telemetry.Inbound, telemetry.HandshakePlaintext); n != 0 || w.calls() != 0 {
		t.Errorf("%d connections in plaintext, the app got %d RPCs", n, w.calls())
	}
	done := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(within(t, 10*time.Second), &grpc_testing.SimpleRequest{})
		done <- err
	}()
	web.source.Set(ca.State(ca.Issue("/svc/web")))
	if err := <-done; err != nil {
		t.Errorf("once there is a certificate: %v", err)
	}
}

// under has RPCs made until the test says so; none may fail.
func under(t *testing.T, client grpc_testing.TestServiceClient) (rpcs *atomic.Int64, end func()) {
	t.Helper()
	var stop atomic.Bool
	rpcs = new(atomic.Int64)
	var callers sync.WaitGroup
	ctx := within(t, time.Minute)
	for i := range 4 {
		callers.Go(func() {
			for !stop.Load() {
				if i == 0 { // a stream that lasts
					stream, err := client.FullDuplexCall(ctx)
					if err != nil {
						t.Errorf("opening a stream: %v", err)
						return
					}
					for range 10 {
						if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 10000)}}); err != nil && !errors.Is(err, io.EOF) {
							t.Errorf("sending: %v", err)
							return
						}
						if _, err := stream.Recv(); err != nil {
							t.Errorf("a stream under way: %v", err)
							return
						}
						time.Sleep(5 * time.Millisecond)
					}
					_ = stream.CloseSend()
					if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
						t.Errorf("a stream ended with %v", err)
						return
					}
				} else if _, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{}); err != nil {
					t.Errorf("an RPC: %v", err)
					return
				}
				rpcs.Add(1)
			}
		})
	}
	return rpcs, func() {
		stop.Store(true)
		callers.Wait()
	}
}

// Certificates and roots are replaced while RPCs are under way, and none fails.
func TestRotation(t *testing.T) {
	t.Parallel()
	p := newPair(t, &app{name: "one"}, nil)
	rpcs, end := under(t, p)
	short := identitytest.TTL(10 * time.Second) // a tenth of what is left of it is the spread
	issue := func(ca *identitytest.Authority, others ...*identitytest.Authority) {
		web, greeter := ca.Issue("/svc/web", short), ca.Issue("/svc/greeter", short)
		p.web.source.Set(believing(ca.State(web), ca, others...))
		p.greeter.source.Set(believing(ca.State(greeter), ca, others...))
		// The new ones are taken up, and what is under way on connections of the old ones
		// has ended.
		eventually(t, func() bool {
			out, in := p.out.Peers(), p.in.Peers()
			return len(out) > 0 && len(in) > 0 &&
				!slices.ContainsFunc(out, func(o mtls.Connected) bool { return !o.Peer.Leaf.Equal(greeter.Leaf) }) &&
				!slices.ContainsFunc(in, func(i mtls.Connected) bool { return !i.Peer.Leaf.Equal(web.Leaf) })
		})
	}
	ca, next := p.ca, identitytest.CA(t, "mesh.test")
	issue(ca)       // leaves of the same root,
	issue(ca, next) // then both roots are believed,
	issue(next, ca) // then leaves are of the new one,
	p.web.source.Set(believing(p.web.keeper.Current(), next))
	p.greeter.source.Set(believing(p.greeter.keeper.Current(), next)) // then the old one is gone
	before := rpcs.Load()
	eventually(t, func() bool { return t.Failed() || rpcs.Load() > before+100 })
	end()
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

// Where what an instance speaks changes, other connections take the place of those that
// there are, and no RPC fails.
func TestFromPlaintextToStrict(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	address := serveApp(t, &app{name: "one"})
	greeter := newParty(t, ca.State(ca.Issue("/svc/greeter")))
	web := newParty(t, ca.State(ca.Issue("/svc/web")))
	both, _ := inboundOf(t, address, inbound.Options{Security: greeter.inbound(mtls.Permissive), Counters: greeter.counters})
	at := func(s registry.Security) *registry.Service {
		return &registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{{ID: "one", Address: both, Weight: 1, Security: s}}}
	}
	source := memory.New(at(registry.SecurityPlaintext))
	cc, p := meshOf(t, outbound.Options{
		DefaultService: "greeter", Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: web.counters, Security: web.outbound(false), Source: source,
	})
	rpcs, end := under(t, grpc_testing.NewTestServiceClient(cc))
	counts := &web.counters.Security[telemetry.Outbound]
	for _, step := range []struct {
		says   registry.Security
		secure int64
	}{
		{registry.SecurityPlaintext, 0}, {registry.SecurityPermissive, 1}, {registry.SecurityMTLS, 1}, {registry.SecurityPlaintext, 0},
	} {
		source.Replace(at(step.says))
		eventually(t, func() bool { return counts.Secure.Load() == step.secure && counts.Plaintext.Load() == 1-step.secure })
		before := rpcs.Load()
		eventually(t, func() bool { return t.Failed() || rpcs.Load() > before+20 })
	}
	if n := web.handshakes(telemetry.Outbound, telemetry.HandshakeOK); n != 1 {
		t.Errorf("%d handshakes: from permissive to mtls the connection should have stayed", n)
	}
	end()
	callers, _ := greeter.counters.Callers.Report()
	if len(callers) != 2 || len(p.Peers()) != 0 {
		t.Errorf("callers: %+v", callers)
	}
}

// Rules that change, and go on to allow what is under way, disturb nothing.
func TestRulesChangeUnderLoad(t *testing.T) {
	t.Parallel()
	p := newPair(t, &app{name: "one"}, nil)
	var sets []*policy.Set
	for _, rules := range []string{
		"[{action: allow, from: [web], metadata: [{key: user-agent, prefix: grpc-go}]}]",
		"[{action: allow, from: [web, admin]}, {action: deny, metadata: [{key: x-bad, present: true}]}]",
	} {
		sets = append(sets, compile(t, "- {name: who, service: greeter, access: {rules: "+rules+"}}"))
	}
	p.in.SetPolicies(sets[0])
	rpcs, end := under(t, p)
	for i := range 200 {
		before := rpcs.Load()
		p.in.SetPolicies(sets[(i+1)%2])
		eventually(t, func() bool { return t.Failed() || rpcs.Load() > before })
	}
	end()
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

// Streams of callers whose access is taken away end, be it by rules, intentions or roots.
func TestRevoked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		await  bool
		allow  func(*pair)
		revoke func(*testing.T, *pair)
		code   codes.Code
		says   string
	}{
		"rules": {
			allow: func(p *pair) {
				p.in.SetPolicies(compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [web, admin]}]}}"))
			},
			revoke: func(_ *testing.T, p *pair) {
				p.in.SetPolicies(compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [admin]}]}}"))
			},
			code: codes.PermissionDenied, says: `access policy "who" refuses spiffe://mesh.test/svc/web`,
		},
		"intentions": {
			await: true,
			allow: func(p *pair) { p.in.SetIntentions(&registry.Intentions{DefaultAllow: true}) },
			revoke: func(_ *testing.T, p *pair) {
				p.in.SetIntentions(&registry.Intentions{DefaultAllow: false})
			},
			code: codes.PermissionDenied, says: "intentions",
		},
		"roots": {
			allow: func(*pair) {},
			revoke: func(t *testing.T, p *pair) {
				next := identitytest.CA(t, "mesh.test")
				p.greeter.source.Set(next.State(next.Issue("/svc/greeter")))
			},
			code: codes.Unavailable, says: "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &witness{app: app{name: "one"}, left: make(chan error, 1)}
			p := newPair(t, w, func(o *inbound.Options) { o.AwaitIntentions = c.await })
			ctx := within(t, 20*time.Second)
			if c.await {
				if _, err := p.UnaryCall(ctx, &grpc_testing.SimpleRequest{}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("before intentions are known: %v", err)
				}
			}
			c.allow(p)
			stream, err := p.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			c.revoke(t, p)
			_, err = stream.Recv() // how soon is held in the tests of package relay, with a clock of their own
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.says) {
				t.Errorf("the stream ended with %v, want %v and %q", err, c.code, c.says)
			}
			if err := <-w.left; status.Code(err) != codes.Canceled {
				t.Errorf("the app's RPC ended with %v", err)
			}
			before := w.calls()
			var trailer metadata.MD
			_, err = p.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.Trailer(&trailer))
			if status.Code(err) != c.code || w.calls() != before {
				t.Errorf("another RPC: %v", err)
			}
			if flags := trailer.Get("pillion-flags"); c.code == codes.PermissionDenied && !slices.Equal(flags, []string{"UAEX"}) {
				t.Errorf("pillion-flags: %v", flags)
			}
		})
	}
}

// Callers in plaintext are let in where that may be, and are told apart.
func TestPermissive(t *testing.T) {
	t.Parallel()
	w := &witness{app: app{name: "one"}}
	p := newPair(t, w, func(o *inbound.Options) { o.Security.Mode = mtls.Permissive })
	ctx := within(t, 20*time.Second)
	plain, err := grpc.NewClient(p.endpoint.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	forged := metadata.AppendToOutgoingContext(ctx, "pillion-peer", "spiffe://mesh.test/svc/admin", "x-forwarded-client-cert", "x")
	if _, err := grpc_testing.NewTestServiceClient(plain).UnaryCall(forged, &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if told := w.told[0]; len(told.Get("pillion-peer"))+len(told.Get("x-forwarded-client-cert")) != 0 {
		t.Errorf("the app was told %v", told)
	}
	if _, err := p.UnaryCall(ctx, &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	callers, _ := p.greeter.counters.Callers.Report()
	if len(callers) != 2 || callers[0].ID == "" || callers[1].ID != "" {
		t.Errorf("callers: %+v", callers)
	}
	if s := &p.greeter.counters.Security[telemetry.Inbound]; s.Secure.Load() != 1 || s.Plaintext.Load() != 1 {
		t.Errorf("%d secure connections, %d in plaintext", s.Secure.Load(), s.Plaintext.Load())
	}
}
