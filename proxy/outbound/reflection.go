package outbound

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// meshReflection is a gRPC server within the process that answers reflection for
// the whole mesh. To the rest of the proxy it is one more service, reached over
// a connection in memory; it asks the mesh's services through the proxy itself.
type meshReflection struct {
	mesh    *meshreflect.Mesh
	server  *grpc.Server
	cluster *upstream.Cluster
	types   *typeLearner
}

func newMeshReflection(o *Options, inside *bufconn.Listener, http2 *h2.Config) *meshReflection {
	m := &meshReflection{server: grpc.NewServer(), types: newTypeLearner(o.Metrics)}
	mo := meshreflect.Options{
		Services:  o.Source.Services,
		Answering: o.Source.Answering,
		Answered:  m.types.answered,
		Dial: func(_ context.Context, service string) (grpc.ClientConnInterface, error) {
			return grpc.NewClient("passthrough:///"+service,
				grpc.WithAuthority(service),
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return dialInMemory(ctx, inside)
				}))
		},
	}
	o.Limits.Reflection.apply(&mo)
	m.mesh = meshreflect.New(mo)
	m.types.start(m.mesh.Methods)
	m.mesh.Register(m.server)
	listener := bufconn.Listen(inMemory)
	go func() { _ = m.server.Serve(listener) }()

	const name = "pillion-mesh-reflection"
	opts := upstream.Options{HTTP2: http2, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialInMemory(ctx, listener)
	}}.WithDefaults()
	m.cluster = upstream.NewCluster(name, balance.PickFirst, &opts, o.Counters.Service(telemetry.Outbound, name))
	m.cluster.Update([]registry.Endpoint{{ID: name, Address: "unix:///" + name, Weight: 1}}, false)
	return m
}

// stop ends the server. Streams that are open end with it.
func (m *meshReflection) stop() {
	m.types.stop()
	m.cluster.Close()
	m.server.Stop()
}
