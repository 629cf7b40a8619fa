package outbound_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// reflect opens a reflection stream through the proxy and returns what asks on
// it; asked nil, it ends the stream.
func reflect(ctx context.Context, t *testing.T, cc *grpc.ClientConn) func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if r == nil {
			_ = stream.CloseSend()
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v", err)
			}
			return nil
		}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

var listServices = &reflectionpb.ServerReflectionRequest{
	MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
}

// started returns how many RPCs began, by method, and the methods' types.
func started(t *testing.T, m *telemetry.Metrics) (count map[string]float64, types map[string]string) {
	t.Helper()
	all := prometheus.NewPedanticRegistry()
	all.MustRegister(m)
	families, err := all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	count, types = make(map[string]float64), make(map[string]string)
	for _, f := range families {
		if f.GetName() != "grpc_client_started_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			count[labels["grpc_method"]] += metric.GetCounter().GetValue()
			types[labels["grpc_method"]] = labels["grpc_type"]
		}
	}
	return count, types
}

// Reflection lists the services of the whole mesh, asked through the proxy itself.
func TestReflectionOfTheMesh(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, &app{name: "one"})
	beside, _ := sidecar(t, address)
	cc, _, _ := mesh(t, memory.New(service("greeter", beside), service("nobody")))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ask := reflect(ctx, t, cc)
	var names []string
	for _, s := range ask(listServices).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !slices.Contains(names, "grpc.testing.TestService") {
		t.Errorf("the mesh's services: %v", names)
	}
	if got := ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"},
	}).GetFileDescriptorResponse().GetFileDescriptorProto(); len(got) == 0 {
		t.Error("the mesh does not describe a service that it lists")
	}
}

// What the sidecar itself asks services is no RPC of the app's.
func TestOwnQuestionsDoNotCount(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, &app{name: "one"})
	beside, _ := sidecar(t, address)
	var log bytes.Buffer
	o := outbound.Options{
		Source: memory.New(service("greeter", beside)), Counters: new(telemetry.Counters),
		Metrics:   telemetry.NewMetrics(telemetry.Outbound),
		AccessLog: telemetry.NewAccessLog(&log, telemetry.AccessLogOptions{Sample: 1, Errors: true}),
	}
	cc, p := meshOf(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ask := reflect(ctx, t, cc)
	if n := len(ask(listServices).GetListServicesResponse().GetService()); n < 3 {
		t.Errorf("%d gRPC services are listed: the service was not asked", n)
	}
	// The description leaves a conversation with the service open.
	ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"},
	})
	if n := o.Counters.DownstreamConnections[telemetry.Outbound].Load(); n != 1 {
		t.Errorf("%d connections of callers, want 1", n)
	}
	ask(nil)
	_ = cc.Close()
	shutdown(t, p.Shutdown)
	if err := o.AccessLog.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d RPCs are in the access log, want the app's own:\n%s", n, &log)
	}
	if count, _ := started(t, o.Metrics); count["ServerReflectionInfo"] != 1 {
		t.Errorf("RPCs counted: %v, want one", count)
	}
	if n := o.Counters.DownstreamConnections[telemetry.Outbound].Load(); n != 0 {
		t.Errorf("%d connections of callers are left", n)
	}
}

// Once somebody has asked reflection about a service, its RPCs count by type.
func TestReflectionTellsTheTypes(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, &app{name: "one"})
	beside, _ := sidecar(t, address)
	metrics := telemetry.NewMetrics(telemetry.Outbound)
	cc, _ := meshOf(t, outbound.Options{
		Source: memory.New(service("greeter", beside)), Counters: new(telemetry.Counters), Metrics: metrics,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	call := func() {
		t.Helper()
		if _, err := grpc_testing.NewTestServiceClient(cc).UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.CallAuthority("greeter")); err != nil {
			t.Fatal(err)
		}
	}
	call()
	if _, types := started(t, metrics); types["UnaryCall"] != "unknown" {
		t.Errorf("the type of UnaryCall is %q before anybody asked", types["UnaryCall"])
	}
	ask := reflect(ctx, t, cc)
	ask(listServices)
	ask(nil)
	want := map[string]string{
		"UnaryCall": "unary", "StreamingInputCall": "client_stream",
		"StreamingOutputCall": "server_stream", "FullDuplexCall": "bidi_stream",
	}
	known := func() bool {
		_, types := started(t, metrics)
		for method, typ := range want {
			if types[method] != typ {
				return false
			}
		}
		return true
	}
	for !known() { // it is asked behind the answer's back
		select {
		case <-ctx.Done():
			_, types := started(t, metrics)
			t.Fatalf("the types are %v, want %v", types, want)
		case <-time.After(5 * time.Millisecond):
		}
	}
	call()
	if count, types := started(t, metrics); count["UnaryCall"] != 2 || types["UnaryCall"] != "unary" {
		t.Errorf("%v of UnaryCall as %q, want 2 as unary", count["UnaryCall"], types["UnaryCall"])
	}
}
