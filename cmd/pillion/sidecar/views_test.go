package sidecar

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestEndpointsSayWhatTheyAnswer(t *testing.T) {
	app, l := grpc.NewServer(), listenAny(t)
	healthpb.RegisterHealthServer(app, health.NewServer())
	reflection.Register(app)
	go func() { _ = app.Serve(l) }()
	t.Cleanup(app.Stop)
	cfg := &configv1.Bootstrap{
		Service: &configv1.Service{Name: "a", Address: l.Addr().String()},
		Inbound: &configv1.Inbound{Listen: anyPort},
	}
	s := newSidecar(t, cfg)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	names := func() []string {
		services := endpointsView{s}.Endpoints()
		if len(services) != 1 || services[0].GetSide() != adminv1.Side_SIDE_INBOUND {
			t.Fatalf("got %v", services)
		}
		return services[0].GetGrpc()
	}
	for deadline := time.Now().Add(20 * time.Second); !slices.Contains(names(), healthpb.Health_ServiceDesc.ServiceName); {
		if time.Now().After(deadline) {
			t.Fatalf("got %v", names())
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	cfg.Service.Grpc = []string{"b.B", "a.A"}
	s = newSidecar(t, cfg)
	if got := (endpointsView{s}).Endpoints()[0].GetGrpc(); !slices.Equal(got, []string{"a.A", "b.B"}) {
		t.Errorf("got %v, want what the configuration says", got)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(stopped); err != nil {
		t.Error(err)
	}
}
