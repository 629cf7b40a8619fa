package outbound

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/inmemory"
	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
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

func newMeshReflection(o *Options, inside *inmemory.Listener, http2 *h2.Config) *meshReflection {
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
					return inside.Dial(ctx)
				}))
		},
	}
	o.Limits.Reflection.apply(&mo)
	m.mesh = meshreflect.New(mo)
	m.types.start(m.mesh.Methods)
	m.mesh.Register(m.server)
	listener := inmemory.Listen()
	go func() { _ = m.server.Serve(listener) }()

	const name = "pillion-mesh-reflection"
	m.cluster = inmemory.Cluster(name, http2, listener.Dial, o.Counters.Service(telemetry.Outbound, name))
	return m
}

// stop ends the server. Streams that are open end with it.
func (m *meshReflection) stop() {
	m.types.stop()
	m.cluster.Close()
	m.server.Stop()
}
