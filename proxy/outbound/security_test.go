package outbound_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

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
