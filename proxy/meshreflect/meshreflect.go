// Package meshreflect answers gRPC server reflection (v1 and v1alpha, gRFC A15)
// for all services of a mesh as if they were one server, by asking the
// services' own reflection. It does not know where services are or how one is
// reached, and it hands out no descriptors of its own but reflection's.
//
// Nothing of a caller's metadata is passed on: the services asked are more
// than the caller meant, and its credentials are none of their business.
package meshreflect

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// Options says what a [Mesh] works with. Services and Dial are required; any
// number or duration that is zero has its default.
type Options struct {
	// Services returns the names of the services in the mesh.
	Services func(ctx context.Context) ([]string, error)
	// Dial returns a connection whose RPCs go to a service of the mesh. Mesh
	// dials for every conversation and closes the connection behind it if it
	// has a Close method, as a grpc.ClientConn has.
	Dial func(ctx context.Context, service string) (grpc.ClientConnInterface, error)
	// Answering returns the names of the services that are known to answer a
	// full gRPC service name. It is optional, and spares asking the whole mesh.
	Answering func(ctx context.Context, grpcService string) ([]string, error)

	// Answered is told of each service that just answered with what it lists or
	// describes, for a caller of reflection or of Lists; [Mesh.Methods] does not
	// tell. It must not block. It is optional.
	Answered func(service string)

	// ServiceTimeout is how long one service may take for one answer; 2 s.
	ServiceTimeout time.Duration
	// Timeout is how long an answer may take for which many services are
	// asked; 10 s. What has not been heard by then is left out.
	Timeout time.Duration
	// Lifetime is how long it is remembered what gRPC services a service
	// lists, or that it lists none; 10 s.
	Lifetime time.Duration
	// Idle is how long a conversation with a service is held open for the next
	// question of the same caller; 30 s.
	Idle time.Duration
	// Concurrency is how many services are asked at once; 16.
	Concurrency int
	// MaxServices is the size of a mesh from which on a question that would go
	// to every service is refused; 1000.
	MaxServices int
	// MaxSessions is how many callers may have reflection streams open at
	// once; 100.
	MaxSessions int
	// MaxAnswerBytes is the largest answer taken from a service; 4 MiB.
	MaxAnswerBytes int
	// MaxQuestionBytes bounds a question, which may be passed on to every service
	// of the mesh; 4 KiB, which has room for a name of a thousand characters.
	MaxQuestionBytes int
	// MaxListBytes bounds the names that are remembered of one service; 64 KiB.
	MaxListBytes int
}

func (o *Options) setDefaults() {
	setDefault(&o.ServiceTimeout, 2*time.Second)
	setDefault(&o.Timeout, 10*time.Second)
	setDefault(&o.Lifetime, 10*time.Second)
	setDefault(&o.Idle, 30*time.Second)
	setDefault(&o.Concurrency, 16)
	setDefault(&o.MaxServices, 1000)
	setDefault(&o.MaxSessions, 100)
	setDefault(&o.MaxAnswerBytes, 4<<20)
	setDefault(&o.MaxQuestionBytes, 4<<10)
	setDefault(&o.MaxListBytes, 64<<10)
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Mesh asks the services of a mesh for their reflection. Its methods may be
// called from many goroutines at once.
type Mesh struct {
	opts     Options
	asking   chan struct{} // a place for each service that may be asked at once
	sessions atomic.Int64

	mu    sync.Mutex
	peers map[string]*peer
}

// New returns a Mesh.
func New(opts Options) *Mesh {
	opts.setDefaults()
	return &Mesh{
		opts:   opts,
		asking: make(chan struct{}, opts.Concurrency),
		peers:  make(map[string]*peer),
	}
}

// Register makes a gRPC server answer both versions of reflection for the
// mesh. The server's own services are not among those listed, other than
// reflection itself.
func (m *Mesh) Register(registrar grpc.ServiceRegistrar) {
	registrar.RegisterService(&v1.ServerReflection_ServiceDesc, server{mesh: m})
	// The two versions differ in the package's name and in nothing on the
	// wire, so the messages of one do for both.
	alpha := v1.ServerReflection_ServiceDesc
	alpha.ServiceName = grpc_reflection_v1alpha.ServerReflection_ServiceDesc.ServiceName
	alpha.Metadata = grpc_reflection_v1alpha.ServerReflection_ServiceDesc.Metadata
	registrar.RegisterService(&alpha, server{mesh: m})
}

// answered says that a service answered.
func (m *Mesh) answered(service string) {
	if m.opts.Answered != nil {
		m.opts.Answered(service)
	}
}

// forEach calls ask with each number below n, from several goroutines, and
// returns once all are done. Numbers that ctx leaves no time for are left out.
func (m *Mesh) forEach(ctx context.Context, n int, ask func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, m.opts.Concurrency) {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= n || ctx.Err() != nil {
					return
				}
				select {
				case m.asking <- struct{}{}:
				case <-ctx.Done():
					return
				}
				ask(i)
				<-m.asking
			}
		})
	}
	workers.Wait()
}
