package docs_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// noLimits are amounts of the bootstrap that bound nothing that others can cause:
// whoever adds a field has to say here that it is none, or explain it in
// docs/limits.md. A name stands for all within.
var noLimits = []string{
	"service",           // what the registry is told of the app
	"access_log.sample", // a share
	"overload.adaptive_concurrency.tolerance",
	"identity.dev", // how long certificates live that the sidecar signs itself
}

// limits returns the default of every limit of the schema by its path, "none" where
// it has none.
func limits(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, registry := range []*configv1.Registry{
		{Source: &configv1.Registry_File{File: &configv1.FileRegistry{}}},
		{Source: &configv1.Registry_Consul{Consul: &configv1.ConsulRegistry{}}},
	} {
		gather(found, "", configyaml.Effective(&configv1.Bootstrap{
			Service: &configv1.Service{Port: proto.Uint32(1)}, Outbound: &configv1.Outbound{}, Inbound: &configv1.Inbound{},
			Admin: &configv1.Admin{}, AccessLog: &configv1.AccessLog{}, Registry: registry,
			Overload: &configv1.Overload{AdaptiveConcurrency: &configv1.AdaptiveConcurrency{}}, Policies: &configv1.PolicyFiles{},
			Control:  &configv1.Control{},
			Identity: &configv1.Identity{Source: &configv1.Identity_Dev{Dev: &configv1.DevIdentity{}}},
		}).ProtoReflect())
	}
	return found
}

func gather(found map[string]string, path string, m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		at := strings.TrimPrefix(path+"."+string(fd.Name()), ".")
		if fd.IsList() || fd.IsMap() || slices.Contains(noLimits, at) {
			continue
		}
		switch fd.Kind() {
		case protoreflect.MessageKind:
			d, isDuration := m.Get(fd).Message().Interface().(*durationpb.Duration)
			switch {
			case !isDuration && m.Has(fd):
				gather(found, at, m.Get(fd).Message())
			case isDuration && m.Has(fd):
				found[at] = d.AsDuration().String()
			case isDuration:
				found[at] = "none"
			}
		case protoreflect.StringKind, protoreflect.BoolKind, protoreflect.BytesKind, protoreflect.EnumKind:
		default:
			found[at] = m.Get(fd).String()
		}
	}
}

// docs/limits.md explains each limit of the schema, with its default, and no other.
func TestLimitsAreDocumented(t *testing.T) {
	t.Parallel()
	tables, _, _ := strings.Cut(readPage(t, "limits.md").text, "\n## What is fixed")
	documented := map[string]bool{}
	want := limits(t)
	for _, row := range rows(tables) {
		if len(row) != 4 || row[2] == "" || row[3] == "" {
			t.Errorf("a row is incomplete: %q", row)
			continue
		}
		field := ticked(row[0])[0]
		if documented[field] {
			t.Errorf("%s stands twice", field)
		}
		documented[field] = true
		if want[field] == "" {
			t.Errorf("%s is no limit of the schema", field)
			continue
		}
		if got := amount(t, row[1], want[field]); got != want[field] {
			t.Errorf("%s is %s by default; documented is %s", field, want[field], row[1])
		}
	}
	for field, value := range want {
		if !documented[field] {
			t.Errorf("%s (%s) is not explained", field, value)
		}
	}
	if len(documented) < 70 {
		t.Errorf("only %d limits were found: has the form of the page changed?", len(documented))
	}
}

// amount returns what a cell says a default is, in the form of limits.
func amount(t *testing.T, cell, want string) string {
	t.Helper()
	if cell == "none" {
		return cell
	}
	text := ticked(cell)[0]
	if d, err := protoyaml.ParseDuration(text); err == nil && strings.ContainsAny(text, "smh") {
		return d.AsDuration().String()
	}
	for unit, shift := range map[string]uint{"Ki": 10, "Mi": 20, "Gi": 30} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				t.Fatalf("%q (%s)", cell, want)
			}
			return strconv.FormatUint(n<<shift, 10)
		}
	}
	return text
}
