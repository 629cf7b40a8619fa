package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/pluginpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestSplitDefault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ comment, rest, standard string }{
		{"No default.", "No default.", ""},
		{`Where. Default: "127.0.0.1:15001".`, "Where.", `"127.0.0.1:15001"`},
		{"How long. Default: 30m. 0s: never; else 1s.", "How long. 0s: never; else 1s.", "30m"},
		{`Told. Default: "a. b", or 0.0.0.0. Port 0 chooses.`, "Told. Port 0 chooses.", `"a. b", or 0.0.0.0`},
		{"Cut. Default: none", "Cut.", "none"},
	} {
		if rest, standard := splitDefault(c.comment); rest != c.rest || standard != c.standard {
			t.Errorf("%q: %q and %q, want %q and %q", c.comment, rest, standard, c.rest, c.standard)
		}
	}
}

func TestShortAmounts(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		time.Millisecond: "1ms", time.Minute: "1m", 90 * time.Second: "1m30s", time.Hour: "1h",
		time.Hour + 10*time.Second: "1h0m10s", 168 * time.Hour: "168h", 10 * time.Minute: "10m", 20 * time.Second: "20s",
	} {
		if got := shortDuration(durationpb.New(d)); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 65535: "65535", 65536: "64Ki", 4 << 20: "4Mi", 1 << 40: "1Ti"} {
		if got := shortBytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestProse(t *testing.T) {
	t.Parallel()
	for comment, want := range map[string]string{
		"Drain is what happens\n on \"SIGTERM\".": "What happens on `SIGTERM`.",
		"Drain takes\n it.\n\n Or not.":           "Takes it.\n\nOr not.",
		"Draining it.":                            "Draining it.",
	} {
		if got := prose(protogen.Comments(comment), "Drain"); got != want {
			t.Errorf("%q became %q, want %q", comment, got, want)
		}
	}
}

// schema is the schema that is linked in, which has no comments any more.
func schema(t *testing.T) []*protogen.File {
	t.Helper()
	request := &pluginpb.CodeGeneratorRequest{}
	seen := map[string]bool{}
	var add func(file protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i))
		}
		p := protodesc.ToFileDescriptorProto(file)
		if p.GetOptions().GetGoPackage() == "" {
			p.Options = &descriptorpb.FileOptions{GoPackage: new("example.com/x")}
		}
		request.ProtoFile = append(request.ProtoFile, p)
	}
	add(configv1.File_pillion_config_v1_bootstrap_proto)
	add(configv1.File_pillion_config_v1_mesh_proto)
	add(configv1.File_pillion_config_v1_control_proto)
	plugin, err := protogen.Options{}.New(request)
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Files
}

// Every field of the files is on the page, and every link on it leads somewhere.
func TestThePageHasEveryField(t *testing.T) {
	t.Parallel()
	text, err := write(schema(t))
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, at := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		headings[anchor(at[1])] = true
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(text, -1) {
		if !headings[link[1]] {
			t.Errorf("there is a link to #%s, but no such heading", link[1])
		}
	}
	section := func(heading string) string {
		_, rest, _ := strings.Cut(text, "## "+heading+"\n")
		rest, _, _ = strings.Cut(rest, "\n#")
		return rest
	}
	var walk func(m protoreflect.MessageDescriptor, heading string)
	walk = func(m protoreflect.MessageDescriptor, heading string) {
		path := heading + "."
		if strings.HasSuffix(heading, ".yaml") {
			path = ""
		}
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			if !strings.Contains(section(heading), "\n| `"+string(field.Name())+"` | ") {
				t.Errorf("%s is not in section %q", field.FullName(), heading)
			}
			message, at := field.Message(), path+string(field.Name())
			switch {
			case field.IsMap():
				message, at = field.MapValue().Message(), at+".NAME"
			case field.IsList():
				at += "[]"
			}
			if message != nil && message.FullName() != duration && message.FullName() != timestamp {
				walk(message, at)
			}
		}
	}
	walk((&configv1.Bootstrap{}).ProtoReflect().Descriptor(), "pillion.yaml")
	walk((&configv1.MeshFile{}).ProtoReflect().Descriptor(), "mesh.yaml")
	walk((&configv1.Documents{}).ProtoReflect().Descriptor(), "documents.yaml")
	sections := map[string]int{}
	for _, at := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(text, -1) {
		if sections[at[1]]++; sections[at[1]] == 2 {
			t.Errorf("there are two sections %q", at[1])
		}
	}
}

func TestWithoutTheSchemaThereIsNoPage(t *testing.T) {
	t.Parallel()
	if _, err := write(nil); err == nil {
		t.Error("no error")
	}
}
