package configyaml

import (
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Limits that follow others unless they are written.
func TestDependentLimits(t *testing.T) {
	t.Parallel()
	value := func(v uint32) *uint32 { return &v }
	for name, test := range map[string]struct {
		written, want *configv1.HTTP2
	}{
		"a longer list takes more frames": {
			&configv1.HTTP2{MaxHeaderListSize: value(2 << 20)}, &configv1.HTTP2{MaxContinuationFrames: value(129), MaxOutput: value(1 << 20)},
		},
		"a short one no fewer": {
			&configv1.HTTP2{MaxHeaderListSize: value(1 << 10)}, &configv1.HTTP2{MaxContinuationFrames: value(64), MaxOutput: value(1 << 20)},
		},
		"what is written holds": {
			&configv1.HTTP2{MaxHeaderListSize: value(2 << 20), MaxContinuationFrames: value(3)}, &configv1.HTTP2{MaxContinuationFrames: value(3), MaxOutput: value(1 << 20)},
		},
		"a buffer fits into the output": {
			&configv1.HTTP2{OutputBuffer: value(4 << 20)}, &configv1.HTTP2{MaxContinuationFrames: value(64), MaxOutput: value(4 << 20)},
		},
	} {
		got := Effective(&configv1.Bootstrap{Http2: test.written}).GetHttp2()
		if got.GetMaxContinuationFrames() != test.want.GetMaxContinuationFrames() || got.GetMaxOutput() != test.want.GetMaxOutput() {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDependentConcurrencyLimits(t *testing.T) {
	t.Parallel()
	value := func(v uint32) *uint32 { return &v }
	for name, test := range map[string]struct {
		written, want *configv1.AdaptiveConcurrency
	}{
		"nothing":         {&configv1.AdaptiveConcurrency{}, &configv1.AdaptiveConcurrency{MinLimit: value(1), MaxLimit: value(1000), InitialLimit: value(20)}},
		"a high floor":    {&configv1.AdaptiveConcurrency{MinLimit: value(2000)}, &configv1.AdaptiveConcurrency{MinLimit: value(2000), MaxLimit: value(2000), InitialLimit: value(2000)}},
		"a low ceiling":   {&configv1.AdaptiveConcurrency{MaxLimit: value(5)}, &configv1.AdaptiveConcurrency{MinLimit: value(1), MaxLimit: value(5), InitialLimit: value(5)}},
		"what is written": {&configv1.AdaptiveConcurrency{InitialLimit: value(9)}, &configv1.AdaptiveConcurrency{MinLimit: value(1), MaxLimit: value(1000), InitialLimit: value(9)}},
	} {
		got := Effective(&configv1.Bootstrap{Overload: &configv1.Overload{AdaptiveConcurrency: test.written}}).GetOverload().GetAdaptiveConcurrency()
		if got.GetMinLimit() != test.want.GetMinLimit() || got.GetMaxLimit() != test.want.GetMaxLimit() || got.GetInitialLimit() != test.want.GetInitialLimit() {
			t.Errorf("%s: %v", name, got)
		}
	}
	if Effective(&configv1.Bootstrap{}).GetOverload().AdaptiveConcurrency != nil {
		t.Error("the limit is on where nobody has written it")
	}
}

// Every number and every duration has bounds of its own, which are enforced: the
// value next to them is refused by the field's name.
func TestEveryAmountHasARange(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, registry := range []*configv1.Registry{
		{Source: &configv1.Registry_File{File: &configv1.FileRegistry{Path: "mesh.yaml"}}},
		{Source: &configv1.Registry_Consul{Consul: &configv1.ConsulRegistry{}}},
	} {
		valid := Effective(&configv1.Bootstrap{
			Service:  &configv1.Service{Name: "a", Port: proto.Uint32(1)},
			Outbound: &configv1.Outbound{DefaultTimeout: durationpb.New(1e9), MaxTimeout: durationpb.New(1e9)},
			Inbound:  &configv1.Inbound{}, Admin: &configv1.Admin{}, AccessLog: &configv1.AccessLog{}, Registry: registry,
			Overload: &configv1.Overload{AdaptiveConcurrency: &configv1.AdaptiveConcurrency{}},
		})
		if found := checkRules(valid); len(found) > 0 {
			t.Fatal(found)
		}
		for _, next := range []func(*testing.T, string, protoreflect.FieldDescriptor) (protoreflect.Value, bool){above, below} {
			wrong := proto.CloneOf(valid)
			set := setAll(t, wrong.ProtoReflect(), "", next)
			refused := map[string]bool{}
			for _, f := range checkRules(wrong) {
				refused[f.field] = true
			}
			for _, field := range set {
				checked++
				if !refused[field] {
					t.Errorf("%s is not kept within its range", field)
				}
			}
		}
	}
	if checked < 150 {
		t.Errorf("only %d values were tried", checked)
	}
}

// setAll sets each amount of a message that has such a value, and returns their
// paths.
func setAll(t *testing.T, m protoreflect.Message, path string, value func(*testing.T, string, protoreflect.FieldDescriptor) (protoreflect.Value, bool)) (set []string) {
	t.Helper()
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := strings.TrimPrefix(path+"."+string(fd.Name()), ".")
		switch {
		case fd.IsMap() || fd.IsList():
		case fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() != "google.protobuf.Duration":
			set = append(set, setAll(t, v.Message(), at, value)...)
		default:
			if v, ok := value(t, at, fd); ok {
				m.Set(fd, v)
				set = append(set, at)
			}
		}
		return true
	})
	return set
}

func rangeOf(fd protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, _ := proto.GetExtension(fd.Options(), validate.E_Field).(*validate.FieldRules)
	return rules
}

// above returns the value next to a field's largest; it is false where the field
// is no amount.
func above(t *testing.T, at string, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	t.Helper()
	rules := rangeOf(fd)
	var most uint64
	var v protoreflect.Value
	switch fd.Kind() {
	case protoreflect.Uint32Kind:
		most = uint64(rules.GetUint32().GetLte())
		v = protoreflect.ValueOfUint32(uint32(most) + 1)
	case protoreflect.Uint64Kind:
		most = rules.GetUint64().GetLte()
		v = protoreflect.ValueOfUint64(most + 1)
	case protoreflect.MessageKind:
		most = uint64(rules.GetDuration().GetLte().AsDuration())
		v = protoreflect.ValueOfMessage(durationpb.New(rules.GetDuration().GetLte().AsDuration() + 1).ProtoReflect())
	default:
		return v, false
	}
	if most == 0 {
		t.Errorf("%s has no upper bound", at)
	}
	return v, true
}

// below is above for a field's smallest value, where that is not 0.
func below(_ *testing.T, _ string, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	rules := rangeOf(fd)
	switch fd.Kind() {
	case protoreflect.Uint32Kind:
		least := rules.GetUint32().GetGte()
		return protoreflect.ValueOfUint32(least - 1), least > 0
	case protoreflect.Uint64Kind:
		least := rules.GetUint64().GetGte()
		return protoreflect.ValueOfUint64(least - 1), least > 0
	case protoreflect.MessageKind:
		return protoreflect.ValueOfMessage(durationpb.New(rules.GetDuration().GetGte().AsDuration() - 1).ProtoReflect()), true
	}
	return protoreflect.Value{}, false
}
