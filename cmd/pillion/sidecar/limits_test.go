package sidecar

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// Each number and each duration of a block arrives at the part that keeps it. The
// fields that arrive another way are named.
func TestEveryLimitArrives(t *testing.T) {
	t.Parallel()
	http2, conns, out := new(configv1.HTTP2), new(configv1.Connections), new(configv1.Outbound)
	admin, log, retry := new(configv1.Admin), new(configv1.AccessLog), new(configv1.Retry)
	metrics, consul := new(configv1.Metrics), new(configv1.ConsulRegistry)
	for name, test := range map[string]struct {
		block    proto.Message
		arrived  func() any
		elsewise []protoreflect.Name
	}{
		"http2": {http2, func() any {
			var c h2.Config
			limitHTTP2(&c, http2)
			return c
		}, []protoreflect.Name{
			"max_concurrent_streams", "initial_stream_window", "max_stream_window", "connection_window", "max_header_list_size",
			"max_frame_size", "max_connections", "max_connection_rate", "buffer_budget", "refusal_timeout",
		}},
		"connections": {conns, func() any {
			var o upstream.Options
			limitInstances(&o, conns)
			return o
		}, []protoreflect.Name{"connect_timeout", "idle_timeout", "max_age", "max_streams_per_connection", "backoff", "keepalive"}},
		"outbound": {out, func() any { return outboundLimits(out) },
			[]protoreflect.Name{"default_timeout", "max_timeout", "resolve_timeout"}},
		"admin": {admin, func() any { return adminLimits(admin) }, nil},
		"access_log": {log, func() any {
			var o telemetry.AccessLogOptions
			limitAccessLog(&o, log)
			return o
		}, nil},
		"retry":           {retry, func() any { return retryLimits(retry) }, nil},
		"metrics":         {metrics, func() any { return metricsLimits(metrics) }, []protoreflect.Name{"max_services"}},
		"registry.consul": {consul, func() any { return consulLimits(consul) }, []protoreflect.Name{"idle_timeout", "max_connections"}},
	} {
		next := int64(1000)
		set := fill(test.block.ProtoReflect(), &next, test.elsewise)
		got := numbers(reflect.ValueOf(test.arrived()))
		for field, value := range set {
			if !slices.Contains(got, value) {
				t.Errorf("%s.%s does not arrive", name, field)
			}
		}
		if len(set) < 2 {
			t.Errorf("%s has only %d limits", name, len(set))
		}
	}
}

// fill sets each number and each duration to one of its own, but those that are to
// be left out, and returns them.
func fill(m protoreflect.Message, next *int64, leaveOut []protoreflect.Name) map[protoreflect.Name]int64 {
	set := map[protoreflect.Name]int64{}
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		if slices.Contains(leaveOut, fd.Name()) {
			continue
		}
		switch *next++; fd.Kind() {
		case protoreflect.Uint32Kind:
			m.Set(fd, protoreflect.ValueOfUint32(uint32(*next)))
			set[fd.Name()] = *next
		case protoreflect.MessageKind:
			if fd.Message().FullName() != "google.protobuf.Duration" {
				for name, value := range fill(m.Mutable(fd).Message(), next, nil) {
					set[fd.Name()+"."+name] = value
				}
				continue
			}
			d := time.Duration(*next)
			m.Set(fd, protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()))
			set[fd.Name()] = *next
		}
	}
	return set
}

// numbers returns all numbers in a struct and in those within.
func numbers(v reflect.Value) (found []int64) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Struct:
			found = append(found, numbers(f)...)
		case reflect.Int, reflect.Int32, reflect.Int64:
			found = append(found, f.Int())
		case reflect.Uint32:
			found = append(found, int64(f.Uint()))
		}
	}
	return found
}

// A sidecar keeps the limits that it is configured with, part by part.
func TestLimitsAreInForce(t *testing.T) {
	number, log := proto.Uint32, filepath.Join(t.TempDir(), "access.log")
	s := newSidecar(t, &configv1.Bootstrap{
		Outbound: &configv1.Outbound{
			Listen: anyPort, MaxNames: number(1), Reflection: &configv1.MeshReflection{MaxQuestionSize: number(64)},
		},
		Admin:     &configv1.Admin{Listen: anyPort, MaxHeaderSize: number(1024)},
		Registry:  &configv1.Registry{Source: &configv1.Registry_Static{Static: &configv1.StaticRegistry{}}},
		Http2:     &configv1.HTTP2{HeaderTableSize: number(8192), RefusalTimeout: durationpb.New(time.Millisecond)},
		AccessLog: &configv1.AccessLog{Path: log, MaxPathLength: number(20)},
		Metrics:   &configv1.Metrics{MaxMethods: number(7), MaxServices: number(8)},
		Connections: &configv1.Connections{
			MaxPendingRpcs: number(9), MaxConnectionsPerInstance: number(10),
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	conn, err := grpc.NewClient(s.Address(sideOutbound), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	// The two maps of names have room for one each.
	call := func(authority, path string) codes.Code {
		return status.Code(conn.Invoke(ctx, path, &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}, grpc.CallAuthority(authority)))
	}
	if code := call("first", "/a.First/"+strings.Repeat("m", 50)); code != codes.Unimplemented {
		t.Errorf("an RPC to the first name: %v", code)
	}
	if code := call("second", "/a.Second/M"); code != codes.ResourceExhausted {
		t.Errorf("an RPC to a second name of one: %v", code)
	}
	ask, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx, grpc.CallAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ask.Send(&reflectionpb.ServerReflectionRequest{Host: strings.Repeat("h", 100)}); err != nil {
		t.Fatal(err)
	}
	if answer, err := ask.Recv(); err != nil || !strings.Contains(answer.GetErrorResponse().GetErrorMessage(), "longer than 64 bytes") {
		t.Errorf("a long question: %v, %v", answer, err)
	}

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address(sideAdmin)+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X", strings.Repeat("x", 10_000))
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large headers at the admin port: %s", answer.Status)
	}

	if s.counters.MaxServices != 8 {
		t.Errorf("%d services are counted", s.counters.MaxServices)
	}
	made := newSettings(s.cfg, &s.counters)
	if made.http2.HeaderTableSize != 8192 || made.instances.HTTP2.HeaderTableSize != 8192 {
		t.Error("the limits of HTTP/2 are not in force")
	}
	if made.instances.MaxWaiting != 9 || made.app.MaxConns != 10 {
		t.Error("the limits of connections are not in force")
	}

	_ = conn.Close()
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if lines, err := os.ReadFile(log); err != nil || !strings.Contains(string(lines), `"path":"/a.First/`+strings.Repeat("m", 11)+`"`) {
		t.Errorf("the access log has %s, %v", lines, err)
	}
}

// Callers that connect faster than they may wait for their turn.
func TestConnectionRateIsInForce(t *testing.T) {
	s := newSidecar(t, &configv1.Bootstrap{
		Outbound: &configv1.Outbound{Listen: anyPort},
		Registry: &configv1.Registry{Source: &configv1.Registry_Static{Static: &configv1.StaticRegistry{}}},
		Http2:    &configv1.HTTP2{MaxConnectionRate: proto.Uint32(2)},
	})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	start := time.Now()
	for range 4 { // two at once, and two in the second after
		conn, err := net.Dial("tcp", s.Address(sideOutbound))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("four connections took %v, with two allowed a second", took)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
