package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/pillion-proxy/pillion/proto/helloworld"
)

// RunApp is the demo's app: a greeter as one would write it, without a word of
// networking. It says where it listens, as "listening ADDRESS", and serves until
// ctx ends; then it finishes what it has begun. The lines of in make it unwell.
func RunApp(ctx context.Context, version, listen string, in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("demo app: %w", err)
	}
	s := grpc.NewServer()
	var c conduct
	helloworld.RegisterGreeterServer(s, greeter{version: version, conduct: &c})
	h := health.NewServer()
	healthv1.RegisterHealthServer(s, h)
	reflection.Register(s)
	defer context.AfterFunc(ctx, func() {
		h.Shutdown()
		s.GracefulStop()
	})()
	fmt.Fprintln(out, "listening", l.Addr())
	go c.follow(in, out) // until the process ends
	return s.Serve(l)
}

type greeter struct {
	helloworld.UnimplementedGreeterServer
	version string
	conduct *conduct
}

func (g greeter) greet(name string) *helloworld.HelloReply {
	return &helloworld.HelloReply{Message: fmt.Sprintf("Hello %s, says greeter %s", name, g.version)}
}

// SayHello implements helloworld.GreeterServer.
func (g greeter) SayHello(ctx context.Context, r *helloworld.HelloRequest) (*helloworld.HelloReply, error) {
	if err := g.conduct.apply(ctx, g.version); err != nil {
		return nil, err
	}
	return g.greet(r.GetName()), nil
}

// SayHelloStream implements helloworld.GreeterServer.
func (g greeter) SayHelloStream(r *helloworld.HelloRequest, s grpc.ServerStreamingServer[helloworld.HelloReply]) error {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		if err := s.Send(g.greet(r.GetName())); err != nil {
			return err
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-every.C:
		}
	}
}
