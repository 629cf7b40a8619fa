package sidecar

import (
	"reflect"
	"slices"
	"testing"
	"time"

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
			"max_frame_size", "max_connections", "buffer_budget", "refusal_timeout",
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
