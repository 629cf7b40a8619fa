package outbound_test

import (
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

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
	short := identitytest.TTL(10 * time.Second) // a tenth of what is left of it is the spread
	set := func(ca *identitytest.Authority, others ...*identitytest.Authority) (web, greeter *tls.Certificate) {
		web, greeter = ca.Issue("/svc/web", short), ca.Issue("/svc/greeter", short)
		p.web.source.Set(believing(ca.State(web), ca, others...))
		p.greeter.source.Set(believing(ca.State(greeter), ca, others...))
		return web, greeter
	}
	web, greeter := set(p.ca)
	eventually(t, func() bool {
		return p.web.keeper.Current().Certificate.Leaf.Equal(web.Leaf) && p.greeter.keeper.Current().Certificate.Leaf.Equal(greeter.Leaf)
	})
	rpcs, end := under(t, p)
	issue := func(ca *identitytest.Authority, others ...*identitytest.Authority) {
		web, greeter := set(ca, others...)
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
