package inbound

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/inmemory"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// asked answers what the sidecar itself is asked, and keeps who asked.
type asked struct {
	meshv1.UnimplementedMeshServer
	by chan []string
}

func (a asked) Evidence(ctx context.Context, _ *meshv1.EvidenceRequest) (*meshv1.EvidenceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.by <- md.Get(wire.HeaderPeer)
	return &meshv1.EvidenceResponse{Waiting: "for RPCs"}, nil
}

// meshServer starts what answers for the sidecar itself.
func meshServer(t *testing.T) (asked, func(*Options)) {
	t.Helper()
	a := asked{by: make(chan []string, 100)}
	inside := inmemory.Listen()
	server := grpc.NewServer()
	meshv1.RegisterMeshServer(server, a)
	go func() { _ = server.Serve(inside) }()
	t.Cleanup(server.Stop)
	return a, func(o *Options) { o.Mesh = inside.Dial }
}

// listen has a proxy serve, and returns where.
func listen(t *testing.T, p *Proxy) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Serve(l) }()
	return l.Addr().String()
}

// client calls what listens there; by is whom it proves to be, nil for nobody.
func client(t *testing.T, address string, by func(context.Context, net.Conn) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil || by == nil {
				return nc, err
			}
			return by(ctx, nc)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// Other sidecars reach the one itself on the inbound port, though nobody may call the
// app; it is told who they have proven to be, whatever they say.
func TestMeshOnTheInboundPort(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	keeper, _ := identitytest.Keeper(t, ca.State(ca.Issue("/svc/greeter")))
	server, with := meshServer(t)
	p := inboundWith(t, keeper, func(o *Options) {
		with(o)
		o.Security.Mode, o.AwaitIntentions = mtls.Permissive, true
	})
	p.SetIntentions(&registry.Intentions{})
	p.RefuseFor([]string{"wrong"})
	address := listen(t, p)

	webKeeper, _ := identitytest.Keeper(t, ca.State(ca.Issue("/svc/web")))
	web := mtls.New(mtls.Options{Keeper: webKeeper})
	t.Cleanup(web.Close)
	expected := mtls.Expected{IDs: []spiffeid.ID{spiffeid.RequireFromString("spiffe://mesh.test/svc/greeter")}}
	for name, c := range map[string]struct {
		by   func(context.Context, net.Conn) (net.Conn, error)
		want string
	}{
		"with an identity": {func(ctx context.Context, nc net.Conn) (net.Conn, error) {
			return web.Dial(ctx, nc, expected, nil)
		}, "spiffe://mesh.test/svc/web"},
		"in plaintext": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cc := client(t, address, c.by)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			ctx = metadata.AppendToOutgoingContext(ctx, wire.HeaderPeer, "spiffe://mesh.test/svc/admin")
			answer, err := meshv1.NewMeshClient(cc).Evidence(ctx, &meshv1.EvidenceRequest{})
			if err != nil || answer.GetWaiting() != "for RPCs" {
				t.Fatalf("%v, %v", answer, err)
			}
			by := <-server.by
			if len(by) == 0 {
				by = []string{""}
			}
			if len(by) != 1 || by[0] != c.want {
				t.Errorf("it is told that %q asks, want %q", by, c.want)
			}
			if err := cc.Invoke(ctx, "/a.B/C", &meshv1.EvidenceRequest{}, &meshv1.EvidenceResponse{}); status.Code(err) != codes.PermissionDenied {
				t.Errorf("the app's callers are told %v", err)
			}
		})
	}
}

// Where no control plane runs callers are told so, and the app is not asked.
func TestNoMeshOnTheInboundPort(t *testing.T) {
	t.Parallel()
	cc := client(t, listen(t, inboundWith(t, nil, nil)), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := meshv1.NewMeshClient(cc).Evidence(ctx, &meshv1.EvidenceRequest{})
	if status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != "this sidecar does not do what the mesh's documents say: its bootstrap has no block control" {
		t.Errorf("it is told %v", err)
	}
	if err := cc.Invoke(ctx, "/a.B/C", &meshv1.EvidenceRequest{}, &meshv1.EvidenceResponse{}); status.Code(err) != codes.Unavailable {
		t.Errorf("of an app that is not there callers are told %v", err)
	}
}

// Who may not call the app at all, or not report on it, is known by its identity alone.
func TestMayReport(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	keeper, _ := identitytest.Keeper(t, ca.State(ca.Issue("/svc/greeter")))
	p := inboundWith(t, keeper, nil)
	web, other := spiffeid.RequireFromString("spiffe://mesh.test/svc/web"), spiffeid.RequireFromString("spiffe://mesh.test/svc/other")
	if err := p.MayReport(other); err != nil {
		t.Errorf("where nothing is said: %v", err)
	}
	p.SetPolicies(compile(t, "- {name: who, service: greeter, access: {rules: [{action: allow, from: [web], methods: [a.B/C]}]}}"))
	if err := p.MayReport(web); err != nil {
		t.Errorf("who may call something: %v", err)
	}
	if err := p.MayReport(other); err == nil || err.Error() != `access policy "who" refuses all RPCs of spiffe://mesh.test/svc/other` {
		t.Errorf("who may call nothing: %v", err)
	}
	if err := p.MayReport(spiffeid.ID{}); err != nil {
		t.Errorf("who has proven nothing, where nothing is said of reports: %v", err)
	}
	p.SetPolicies(compile(t, "- {name: reports, service: greeter, access: {rules: [{action: allow, from: [web], methods: [pillion.mesh.v1.Mesh/Report]}]}}"))
	if err := p.MayReport(web); err != nil {
		t.Errorf("who may report: %v", err)
	}
	if err := p.MayReport(other); err == nil || err.Error() != `access policy "reports" refuses reports of spiffe://mesh.test/svc/other` {
		t.Errorf("who may not report: %v", err)
	}
	if err := p.MayReport(spiffeid.ID{}); err == nil || err.Error() != `access policy "reports" refuses reports of callers who have proven no identity` {
		t.Errorf("who has proven nothing: %v", err)
	}
	p.RefuseFor([]string{"wrong"})
	for _, id := range []spiffeid.ID{{}, web, other} {
		if p.MayReport(id) == nil {
			t.Errorf("%q may report though a policy that could say who may is wrong", id)
		}
	}
}
