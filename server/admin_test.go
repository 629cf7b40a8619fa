package server

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// someServices is in no particular order.
func someServices() []*adminv1.Service {
	return []*adminv1.Service{
		{Name: "routeguide", Side: adminv1.Side_SIDE_OUTBOUND},
		{Name: "greeter", Side: adminv1.Side_SIDE_INBOUND},
		{Name: "greeter", Side: adminv1.Side_SIDE_OUTBOUND, Grpc: []string{"helloworld.Greeter"}, LoadBalancing: "round_robin", Instances: []*adminv1.Instance{
			{Id: "b", Address: "127.0.0.1:50052", Weight: 1, State: adminv1.InstanceState_INSTANCE_STATE_BACKOFF, LastError: "connection refused"},
			{Id: "a", Address: "127.0.0.1:50051", Weight: 3, State: adminv1.InstanceState_INSTANCE_STATE_READY, Connections: 1},
		}},
	}
}

func TestGetStatus(t *testing.T) {
	t.Parallel()
	started := time.Unix(1_800_000_000, 0)
	ready := NewReadiness("outbound", "registry")
	ready.Set("outbound", "")
	level := &slog.LevelVar{}
	level.Set(slog.LevelWarn)
	r := start(t, Options{
		Build:     Build{Version: "v1.2.3", Revision: "abc", Go: "go1.26"},
		Started:   started,
		Readiness: ready,
		LogLevel:  level,
		Listeners: shown{listeners: func() []*adminv1.Listener {
			return []*adminv1.Listener{{Name: "outbound", Address: "127.0.0.1:15001"}}
		}},
	})
	got, err := adminv1.NewAdminClient(r.dial(t)).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (&adminv1.GetStatusResponse{
		Version: "v1.2.3", Revision: "abc", GoVersion: "go1.26", StartedAt: timestamppb.New(started), LogLevel: "warn",
		Conditions: []*adminv1.Condition{{Name: "outbound", Met: true}, {Name: "registry", Reason: "starting"}},
		Listeners:  []*adminv1.Listener{{Name: "outbound", Address: "127.0.0.1:15001"}},
	}); !proto.Equal(got, want) {
		t.Errorf("status %v, want %v", got, want)
	}
}

func TestListEndpoints(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Endpoints: shown{endpoints: someServices}})
	client := adminv1.NewAdminClient(r.dial(t))
	got, err := client.ListEndpoints(t.Context(), &adminv1.ListEndpointsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, service := range got.GetServices() {
		order = append(order, service.GetName())
		for _, instance := range service.GetInstances() {
			order = append(order, instance.GetId())
		}
	}
	if got := strings.Join(order, " "); got != "greeter a b routeguide greeter" {
		t.Errorf("services and instances: %s", got)
	}
	_, err = client.ListEndpoints(t.Context(), &adminv1.ListEndpointsRequest{Services: []string{""}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestNothingToShow(t *testing.T) {
	t.Parallel()
	client := adminv1.NewAdminClient(start(t, Options{}).dial(t))
	if got, err := client.GetStatus(t.Context(), &adminv1.GetStatusRequest{}); err != nil || !got.GetReady() || got.GetGoVersion() == "" || !got.GetStartedAt().IsValid() {
		t.Errorf("status %v, %v", got, err)
	}
	if got, err := client.GetConfig(t.Context(), &adminv1.GetConfigRequest{}); err != nil || got.GetBootstrap() != nil {
		t.Errorf("config %v, %v", got, err)
	}
	if got, err := client.ListEndpoints(t.Context(), &adminv1.ListEndpointsRequest{}); err != nil || len(got.GetServices()) != 0 {
		t.Errorf("endpoints %v, %v", got, err)
	}
	_, err := client.SetLogLevel(t.Context(), &adminv1.SetLogLevelRequest{Level: "debug"})
	wantCode(t, err, codes.Unimplemented)
}

func TestSetLogLevel(t *testing.T) {
	t.Parallel()
	level := &slog.LevelVar{}
	r := start(t, Options{LogLevel: level})
	client := adminv1.NewAdminClient(r.dial(t))
	got, err := client.SetLogLevel(t.Context(), &adminv1.SetLogLevelRequest{Level: "debug"})
	if err != nil || got.GetPrevious() != "info" || level.Level() != slog.LevelDebug {
		t.Errorf("previous %q, now %v, %v", got.GetPrevious(), level.Level(), err)
	}
	if !strings.Contains(r.log.String(), "from=info to=debug") {
		t.Errorf("the change is not in the log:\n%s", r.log)
	}
	for _, wrong := range []string{"", "loud", "INFO+2", strings.Repeat("x", 1000)} {
		_, err := client.SetLogLevel(t.Context(), &adminv1.SetLogLevelRequest{Level: wrong})
		wantCode(t, err, codes.InvalidArgument)
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("a wrong level changed it to %v", level.Level())
	}
}

func TestLevelNames(t *testing.T) {
	t.Parallel()
	for level, want := range map[slog.Level]string{-8: "debug", -4: "debug", -1: "debug", 0: "info", 3: "info", 4: "warn", 8: "error", 12: "error"} {
		if got := levelName(level); got != want {
			t.Errorf("level %d is %q, want %q", level, got, want)
		}
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Endpoints: shown{endpoints: func() []*adminv1.Service { panic("broken") }}})
	client := adminv1.NewAdminClient(r.dial(t))
	_, err := client.ListEndpoints(t.Context(), &adminv1.ListEndpointsRequest{})
	wantCode(t, err, codes.Internal)
	if strings.Contains(err.Error(), "broken") {
		t.Errorf("the caller is told what only the log should: %v", err)
	}
	if log := r.log.String(); !strings.Contains(log, "panic=broken") || !strings.Contains(log, "admin_test.go") {
		t.Errorf("the log has no stack:\n%s", log)
	}
	if _, err := client.GetStatus(t.Context(), &adminv1.GetStatusRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestLargeRequestIsRefused(t *testing.T) {
	t.Parallel()
	_, err := adminv1.NewAdminClient(start(t, Options{}).dial(t)).SetLogLevel(t.Context(), &adminv1.SetLogLevelRequest{Level: strings.Repeat("x", 1<<20)})
	wantCode(t, err, codes.ResourceExhausted)
}

func TestHealthFollowsReadiness(t *testing.T) {
	t.Parallel()
	ready := NewReadiness("outbound")
	r := start(t, Options{Readiness: ready})
	client := healthpb.NewHealthClient(r.dial(t))
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := watch.Recv()
		if err != nil || got.GetStatus() != want {
			t.Fatalf("watched: %v, %v; want %v", got.GetStatus(), err, want)
		}
		for _, service := range []string{"", "pillion.admin.v1.Admin"} {
			if got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}); err != nil || got.GetStatus() != want {
				t.Errorf("checked %q: %v, %v; want %v", service, got.GetStatus(), err, want)
			}
		}
	}
	want(healthpb.HealthCheckResponse_NOT_SERVING)
	ready.Set("outbound", "")
	want(healthpb.HealthCheckResponse_SERVING)
	ready.Drain()
	want(healthpb.HealthCheckResponse_NOT_SERVING)

	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "no.Such"})
	wantCode(t, err, codes.NotFound)
	unknown, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "no.Such"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unknown.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("watching an unknown service: %v, %v", got.GetStatus(), err)
	}
}

func TestReflection(t *testing.T) {
	t.Parallel()
	conn := start(t, Options{}).dial(t)
	wanted := []string{"pillion.admin.v1.Admin", "grpc.health.v1.Health", "grpc.channelz.v1.Channelz", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
	for version, list := range map[string]func(context.Context, *grpc.ClientConn) (string, error){
		"v1": func(ctx context.Context, conn *grpc.ClientConn) (string, error) {
			stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
			if err != nil {
				return "", err
			}
			if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
				return "", err
			}
			answer, err := stream.Recv()
			return answer.GetListServicesResponse().String(), err
		},
		"v1alpha": func(ctx context.Context, conn *grpc.ClientConn) (string, error) {
			stream, err := reflectionalphapb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
			if err != nil {
				return "", err
			}
			if err := stream.Send(&reflectionalphapb.ServerReflectionRequest{MessageRequest: &reflectionalphapb.ServerReflectionRequest_ListServices{}}); err != nil {
				return "", err
			}
			answer, err := stream.Recv()
			return answer.GetListServicesResponse().String(), err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		names, err := list(ctx, conn)
		cancel()
		if err != nil {
			t.Errorf("%s: %v", version, err)
		}
		for _, name := range wanted {
			if !strings.Contains(names, `"`+name+`"`) {
				t.Errorf("%s does not list %s: %s", version, name, names)
			}
		}
	}
}

func TestChannelz(t *testing.T) {
	t.Parallel()
	got, err := channelzpb.NewChannelzClient(start(t, Options{}).dial(t)).GetServers(t.Context(), &channelzpb.GetServersRequest{})
	if err != nil || len(got.GetServer()) == 0 {
		t.Errorf("servers %v, %v", got.GetServer(), err)
	}
}
