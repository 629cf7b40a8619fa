package soak

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

// app answers exact RPCs, those that attacks call, health checks and reflection.
type app struct {
	attack.Victim

	address string
	server  *grpc.Server
	served  chan struct{}
}

// startApp starts an app at an address, anywhere where that is empty. It ends with t.
func startApp(t testing.TB, name, address string, ledger *exact.Ledger) *app {
	t.Helper()

	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{
		address: listener.Addr().String(), served: make(chan struct{}),
		server: grpc.NewServer(exact.New(name, ledger).Options()...),
	}
	testpb.RegisterTestServiceServer(a.server, a)
	healthpb.RegisterHealthServer(a.server, health.NewServer())
	reflection.Register(a.server)
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(a.kill)

	return a
}

// kill ends the app at once.
func (a *app) kill() {
	a.server.Stop()
	<-a.served
}

// FullDuplexCall answers each message with an empty one.
func (*app) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}
