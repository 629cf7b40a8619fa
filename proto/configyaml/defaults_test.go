package configyaml

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// everything is a bootstrap with all its blocks.
func everything() *configv1.Bootstrap {
	return &configv1.Bootstrap{
		Service:  &configv1.Service{Name: "greeter", Port: proto.Uint32(50051)},
		Outbound: &configv1.Outbound{}, Inbound: &configv1.Inbound{}, Admin: &configv1.Admin{},
		Registry:  &configv1.Registry{Source: &configv1.Registry_Consul{Consul: &configv1.ConsulRegistry{}}},
		AccessLog: &configv1.AccessLog{},
		Identity:  &configv1.Identity{Source: &configv1.Identity_Dev{Dev: &configv1.DevIdentity{Ca: "ca"}}},
		Overload:  &configv1.Overload{AdaptiveConcurrency: &configv1.AdaptiveConcurrency{}},
		Control:   &configv1.Control{},
	}
}

func TestDefaultsPassTheChecks(t *testing.T) {
	t.Parallel()
	if err := CheckBootstrap(Effective(everything())); err != nil {
		t.Error(err)
	}
}

func TestEffectiveKeepsWhatIsSet(t *testing.T) {
	t.Parallel()
	written := everything()
	before := proto.CloneOf(written)
	once := Effective(written)
	if !proto.Equal(written, before) {
		t.Error("the argument was changed")
	}
	if twice := Effective(once); !proto.Equal(once, twice) {
		t.Errorf("filling in again changed %v to %v", once, twice)
	}
	off := Effective(&configv1.Bootstrap{
		AccessLog:   &configv1.AccessLog{Sample: proto.Float64(0), Errors: new(false)},
		Connections: &configv1.Connections{IdleTimeout: &durationpb.Duration{}},
		Retry:       &configv1.Retry{BufferPerRpc: proto.Uint32(0)},
	})
	if off.GetAccessLog().GetSample() != 0 || off.GetAccessLog().GetErrors() || off.GetConnections().GetIdleTimeout().AsDuration() != 0 || off.GetRetry().GetBufferPerRpc() != 0 {
		t.Errorf("a zero that was written is lost: %v", off)
	}
	if off.Service != nil || off.Outbound != nil || off.Inbound != nil || off.Admin != nil || off.Registry != nil {
		t.Errorf("a block that opens something came from nowhere: %v", off)
	}
	if Effective(nil).GetRetry().GetMaxAttempts() == 0 {
		t.Error("no defaults for nothing")
	}
}

func TestDependentDefaults(t *testing.T) {
	t.Parallel()
	socket := Effective(&configv1.Bootstrap{Service: &configv1.Service{Name: "a", Address: "unix:///run/a.sock"}})
	other := Effective(&configv1.Bootstrap{Service: &configv1.Service{Name: "a", Address: "unix:///run/b.sock"}})
	if id := socket.GetService().GetId(); !regexp.MustCompile(`^a-[0-9a-f]{8}$`).MatchString(id) || id == other.GetService().GetId() {
		t.Errorf("ids %q and %q", id, other.GetService().GetId())
	}
	static := func(names ...string) string {
		upstreams := map[string]*configv1.StaticUpstream{}
		for _, name := range names {
			upstreams[name] = &configv1.StaticUpstream{Addresses: []string{"a:1"}}
		}
		return Effective(&configv1.Bootstrap{
			Outbound: &configv1.Outbound{},
			Registry: &configv1.Registry{Source: &configv1.Registry_Static{Static: &configv1.StaticRegistry{Upstreams: upstreams}}},
		}).GetOutbound().GetDefaultService()
	}
	if got := static("a"); got != "a" {
		t.Errorf("the only upstream is not the default, but %q", got)
	}
	if got := static("a", "b"); got != "" {
		t.Errorf("one of two upstreams is the default: %q", got)
	}
}

// documented finds in a schema's source what the comment above a field says is
// its default.
var documented = regexp.MustCompile(`Default: ("[^"]*"|[0-9]+[.][0-9]+|[0-9A-Za-z]+)[.,;:](?: |$)`)

// The schema's comments are what people read; this keeps them true.
func TestDefaultsAreDocumented(t *testing.T) {
	t.Parallel()
	comments := fieldComments(t)
	var checked int
	// Those whose default is none that could be written.
	derived := map[string]string{"pillion.config.v1.Experiment.group_key": defaultGroupKeyPrefix + "new-price"}
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if fd.IsList() && fd.Message() != nil {
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
				return true
			}
			d, isDuration := v.Interface().(protoreflect.Message)
			if isDuration && fd.Message().FullName() != "google.protobuf.Duration" {
				walk(d)
				return true
			}
			at := documented.FindStringSubmatch(comments[string(fd.FullName())])
			// These depend on what is measured: TestDefaultMeasures.
			ofMeasure := fd.FullName() == "pillion.config.v1.Measure.name" || fd.FullName() == "pillion.config.v1.Measure.min_effect"
			if at == nil || ofMeasure || fd.IsMap() || fd.IsList() {
				return true
			}
			checked++
			want := normalDefault(t, at[1], fd)
			if other := derived[string(fd.FullName())]; other != "" {
				want = other
			}
			if got := defaultText(t, v); got != want {
				t.Errorf("%s is %s by default; its comment says %s (%s)", fd.FullName(), got, want, at[0])
			}
			return true
		})
	}
	walk(Effective(everything()).ProtoReflect())
	bootstrap := checked
	d := EffectiveDocuments(&configv1.Documents{
		Canaries: []*configv1.Canary{{
			Steps: []*configv1.CanaryStep{{}}, Hooks: []*configv1.Hook{{}},
			Guards: &configv1.CanaryGuards{
				Errors: []*configv1.ErrorGuard{{}}, Latency: []*configv1.LatencyGuard{{}}, Ejections: &configv1.EjectionGuard{},
			},
		}},
		Experiments: []*configv1.Experiment{{Name: "New-Price", Layer: &configv1.Layer{}, Hooks: []*configv1.Hook{{}}}},
	})
	walk(d.ProtoReflect())
	if checked < bootstrap+25 {
		t.Errorf("only %d defaults of documents were found: has the form of the comments changed?", checked-bootstrap)
	}
	if checked < 35 {
		t.Errorf("only %d defaults were found: has the form of the comments changed?", checked)
	}
}

func defaultText(t *testing.T, v protoreflect.Value) string {
	t.Helper()
	if m, ok := v.Interface().(protoreflect.Message); ok {
		d, ok := m.Interface().(*durationpb.Duration)
		if !ok {
			t.Fatalf("%T", m.Interface())
		}
		return d.AsDuration().String()
	}
	return v.String()
}

// normalDefault returns what a comment says in the form of defaultText.
func normalDefault(t *testing.T, s string, fd protoreflect.FieldDescriptor) string {
	t.Helper()
	if unquoted, err := strconv.Unquote(s); err == nil {
		return unquoted
	}
	if fd.Message() != nil {
		d, err := protoyaml.ParseDuration(s)
		if err != nil {
			t.Fatalf("%s: %q: %v", fd.FullName(), s, err)
		}
		return d.AsDuration().String()
	}
	if fd.Kind() == protoreflect.DoubleKind {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return protoreflect.ValueOfFloat64(n).String()
	}
	for unit, shift := range map[string]int{"Ki": 10, "Mi": 20} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return strconv.Itoa(n << shift)
		}
	}
	return s
}

// fieldComments returns the comments of all fields by their full name.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	message := regexp.MustCompile(`^message (\w+) \{`)
	field := regexp.MustCompile(`^ +(?:optional |repeated )?[\w.<>, ]+ (\w+) = \d+`)
	files, err := filepath.Glob("../pillion/config/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatal("no schemas:", err)
	}
	comments := map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var in, comment string
		for line := range strings.Lines(string(data)) {
			trimmed := strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(trimmed, "//"):
				comment += " " + strings.TrimSpace(strings.TrimPrefix(trimmed, "//"))
				continue
			case message.MatchString(line):
				in = message.FindStringSubmatch(line)[1]
			case field.MatchString(line):
				comments["pillion.config.v1."+in+"."+field.FindStringSubmatch(line)[1]] = comment
			}
			comment = ""
		}
	}
	return comments
}
