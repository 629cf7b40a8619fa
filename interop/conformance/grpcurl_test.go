package conformance

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

const (
	testService      = "grpc.testing.TestService"
	benchmarkService = "grpc.testing.BenchmarkService"
)

// shop answers the TestService, mill the BenchmarkService; each says in what it
// answers who it is.
type shop struct {
	testpb.UnimplementedTestServiceServer
}

func (shop) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Username: "shop"}, nil
}

func (shop) StreamingOutputCall(request *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for _, want := range request.GetResponseParameters() {
		body := make([]byte, want.GetSize())
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: body}}); err != nil {
			return err
		}
	}

	return nil
}

type mill struct {
	testpb.UnimplementedBenchmarkServiceServer
}

func (mill) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Username: "mill"}, nil
}

func serve(t *testing.T, register ...func(*grpc.Server)) string {
	t.Helper()

	listener := harness.Listen(t)
	server := grpc.NewServer()
	for _, r := range register {
		r(server)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	return listener.Addr().String()
}

func withShop(server *grpc.Server) { testpb.RegisterTestServiceServer(server, shop{}) }
func withMill(server *grpc.Server) { testpb.RegisterBenchmarkServiceServer(server, mill{}) }

func withReflectionV1(server *grpc.Server) {
	reflectionv1.RegisterServerReflectionServer(server, reflection.NewServerV1(reflection.ServerOptions{Services: server}))
}

func withReflectionV1Alpha(server *grpc.Server) {
	reflectionv1alpha.RegisterServerReflectionServer(server, reflection.NewServer(reflection.ServerOptions{Services: server}))
}

// The mesh of these tests: one service speaks only the newer reflection, one
// only the older, one none, and one has no instance that lives.
func startMesh(t *testing.T) string {
	t.Helper()

	shopAddress := serve(t, withShop, withReflectionV1)
	millAddress := serve(t, withMill, withReflectionV1Alpha)
	darkAddress := serve(t)

	mesh := harness.NewMesh(t, map[string]harness.Service{
		"shop": {GRPC: []string{testService}, Endpoints: harness.Endpoints(harness.Inbound(t, shopAddress).Inbound)},
		"mill": {GRPC: []string{benchmarkService}, Endpoints: harness.Endpoints(millAddress)},
		"dark": {Endpoints: harness.Endpoints(darkAddress)},
		"dead": {Endpoints: harness.Endpoints(harness.FreeAddress(t))},
	})

	return harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh}).Outbound
}

func TestGrpcurlAtTheSidecar(t *testing.T) {
	t.Parallel()

	tool := harness.Tool(t, "grpcurl")
	sidecar := startMesh(t)

	grpcurl := func(t *testing.T, args ...string) (int, string) {
		t.Helper()

		return harness.Run(t, harness.Command{Path: tool, Args: append([]string{"-plaintext"}, args...)})
	}
	succeeds := func(t *testing.T, args ...string) string {
		t.Helper()

		code, output := grpcurl(t, args...)
		if code != 0 {
			t.Fatalf("grpcurl %q: exit %d\n%s", args, code, output)
		}

		return output
	}

	t.Run("list names the services of the whole mesh", func(t *testing.T) {
		t.Parallel()

		listed := strings.Fields(succeeds(t, sidecar, "list"))
		for _, want := range []string{testService, benchmarkService} {
			if !slices.Contains(listed, want) {
				t.Errorf("%s is not in %q", want, listed)
			}
		}
	})

	t.Run("list with an authority names those of one", func(t *testing.T) {
		t.Parallel()

		listed := strings.Fields(succeeds(t, "-authority", "mill", sidecar, "list"))
		if !slices.Contains(listed, benchmarkService) || slices.Contains(listed, testService) {
			t.Errorf("got %q", listed)
		}
	})

	t.Run("list names the methods of a service", func(t *testing.T) {
		t.Parallel()

		for _, name := range []string{testService, benchmarkService} {
			if listed := strings.Fields(succeeds(t, sidecar, "list", name)); !slices.Contains(listed, name+".UnaryCall") {
				t.Errorf("got %q", listed)
			}
		}
	})

	t.Run("describe", func(t *testing.T) {
		t.Parallel()

		for _, name := range []string{testService, benchmarkService} {
			described := succeeds(t, sidecar, "describe", name+".UnaryCall")
			if !strings.Contains(described, "rpc UnaryCall ( .grpc.testing.SimpleRequest )") {
				t.Errorf("got %q", described)
			}
		}

		if described := succeeds(t, sidecar, "describe", "grpc.testing.SimpleRequest"); !strings.Contains(described, "message SimpleRequest {") {
			t.Errorf("got %q", described)
		}
	})

	t.Run("call by name", func(t *testing.T) {
		t.Parallel()

		for name, want := range map[string]string{testService: `"shop"`, benchmarkService: `"mill"`} {
			if answer := succeeds(t, sidecar, name+"/UnaryCall"); !strings.Contains(answer, want) {
				t.Errorf("got %q", answer)
			}
		}
	})

	t.Run("call by name with an authority", func(t *testing.T) {
		t.Parallel()

		if answer := succeeds(t, "-authority", "shop", sidecar, testService+"/UnaryCall"); !strings.Contains(answer, `"shop"`) {
			t.Errorf("got %q", answer)
		}
	})

	t.Run("stream", func(t *testing.T) {
		t.Parallel()

		answer := succeeds(t, "-d", `{"response_parameters": [{"size": 1}, {"size": 2}, {"size": 3}]}`,
			sidecar, testService+"/StreamingOutputCall")
		if got := strings.Count(answer, `"body"`); got != 3 {
			t.Errorf("%d messages, want 3: %q", got, answer)
		}
	})

	t.Run("an unknown symbol is said to be unknown", func(t *testing.T) {
		t.Parallel()

		code, output := grpcurl(t, sidecar, "describe", "no.such.Service")
		if code == 0 || !strings.Contains(output, "no.such.Service") {
			t.Errorf("exit %d: %s", code, output)
		}
	})

	t.Run("an unknown method says which services are known", func(t *testing.T) {
		t.Parallel()

		// Without descriptors of it grpcurl cannot call what no service offers, so it is given some.
		code, output := grpcurl(t, "-authority", "nobody", "-protoset", protoset(t), sidecar, "grpc.testing.ReconnectService/Stop")
		if code == 0 || !strings.Contains(output, "Unimplemented") || !strings.Contains(output, "shop") {
			t.Errorf("exit %d: %s", code, output)
		}
	})
}

// protoset writes the descriptors of the services in grpc_testing.
func protoset(t *testing.T) string {
	t.Helper()

	path := t.TempDir() + "/test.protoset"
	source := serve(t, func(server *grpc.Server) {
		testpb.RegisterReconnectServiceServer(server, testpb.UnimplementedReconnectServiceServer{})
	}, withReflectionV1)

	code, output := harness.Run(t, harness.Command{
		Path: harness.Tool(t, "grpcurl"),
		Args: []string{"-plaintext", "-protoset-out", path, source, "describe", "grpc.testing.ReconnectService"},
	})
	if code != 0 {
		t.Fatalf("grpcurl: exit %d\n%s", code, output)
	}

	return path
}

// The same questions, answered by an app itself: what grpcurl expects.
func TestGrpcurlDirectly(t *testing.T) {
	t.Parallel()

	tool := harness.Tool(t, "grpcurl")
	for _, reflect := range []func(*grpc.Server){withReflectionV1, withReflectionV1Alpha} {
		app := serve(t, withShop, reflect)
		for _, args := range [][]string{{app, "list"}, {app, "describe", testService}, {app, testService + "/UnaryCall"}} {
			if code, output := harness.Run(t, harness.Command{Path: tool, Args: append([]string{"-plaintext"}, args...)}); code != 0 {
				t.Errorf("grpcurl %q: exit %d\n%s", args, code, output)
			}
		}
	}
}
