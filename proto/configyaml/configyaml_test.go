package configyaml

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// contract is the bootstrap that the outside may rely on.
const contract = `
service: {name: greeter, port: 50051, meta: {version: v1}}
outbound: {listen: "127.0.0.1:15001"}
inbound:  {listen: "0.0.0.0:15006"}
admin:    {listen: "127.0.0.1:15000"}
registry:
  file: {path: mesh.yaml}
identity: {}
`

const contractMesh = `
services:
  greeter:
    grpc: [helloworld.Greeter]
    endpoints:
    - {address: "127.0.0.1:50051", weight: 1, meta: {version: v1}}
policies: []
`

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadBootstrap(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "pillion.yaml", contract)
	b, err := ReadBootstrap(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.GetRegistry().GetFile().GetPath(), filepath.Join(filepath.Dir(path), "mesh.yaml"); got != want {
		t.Errorf("mesh file %q, want %q", got, want)
	}
	if got := b.GetService(); got.GetAddress() != "127.0.0.1:50051" || got.GetMeta()["version"] != "v1" || got.GetId() != "greeter-50051" {
		t.Errorf("service %v", got)
	}
	if b.GetOutbound().GetListen() != "127.0.0.1:15001" || b.GetInbound().GetListen() != "0.0.0.0:15006" || b.GetAdmin().GetListen() != "127.0.0.1:15000" {
		t.Errorf("listeners %v, %v, %v", b.GetOutbound(), b.GetInbound(), b.GetAdmin())
	}
	if b.GetIdentity() == nil {
		t.Error("identity: {} is lost")
	}
	if err := CheckBootstrap(b); err != nil {
		t.Errorf("what was read does not pass on its own: %v", err)
	}
}

func TestReadMesh(t *testing.T) {
	t.Parallel()
	mesh, err := ReadMesh(writeFile(t, "mesh.yaml", contractMesh), DefaultMeshSize)
	if err != nil {
		t.Fatal(err)
	}
	want := &configv1.MeshFile{Services: map[string]*configv1.MeshService{"greeter": {
		Grpc: []string{"helloworld.Greeter"},
		Endpoints: []*configv1.MeshEndpoint{{
			Address: "127.0.0.1:50051", Weight: proto.Uint32(1), Meta: map[string]string{"version": "v1"},
		}},
	}}}
	if !proto.Equal(mesh, want) {
		t.Errorf("got %v, want %v", mesh, want)
	}
}

func TestEmptyMesh(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "# nothing yet\n", "---\n", "services: {}\n", "null", "services: {greeter: }"} {
		if _, err := ParseMesh("mesh.yaml", []byte(content)); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestDurationsAndBytes(t *testing.T) {
	t.Parallel()
	b, err := parseBootstrap("pillion.yaml", []byte(contract+`
connections: {connect_timeout: 100ms, idle_timeout: 1h30m, max_age: 0s}
http2: {max_stream_window: 8Mi, initial_stream_window: 65535, buffer_budget: "1Gi"}
`))
	if err != nil {
		t.Fatal(err)
	}
	c, h := b.GetConnections(), b.GetHttp2()
	if c.GetConnectTimeout().AsDuration() != 100*time.Millisecond || c.GetIdleTimeout().AsDuration() != 90*time.Minute {
		t.Errorf("connections %v", c)
	}
	if h.GetMaxStreamWindow() != 8<<20 || h.GetInitialStreamWindow() != 65535 || h.GetBufferBudget() != 1<<30 {
		t.Errorf("http2 %v", h)
	}
}

func TestRelativePaths(t *testing.T) {
	t.Parallel()
	b, err := parseBootstrap("/etc/pillion/pillion.yaml", []byte(`
outbound: {}
registry: {consul: {token_file: token, cache_dir: /var/cache/pillion}}
access_log: {path: ../log/access.json}
`))
	if err != nil {
		t.Fatal(err)
	}
	consul := b.GetRegistry().GetConsul()
	for got, want := range map[string]string{
		consul.GetTokenFile():       "/etc/pillion/token",
		consul.GetCacheDir():        "/var/cache/pillion",
		b.GetAccessLog().GetPath():  "/etc/log/access.json",
		readAccessLog(t, "stderr"):  "stderr",
		readAccessLog(t, "stdout"):  "stdout",
		readAccessLog(t, `""`):      "stdout",
		readAccessLog(t, "./a/b.c"): "/x/a/b.c",
	} {
		if got != want {
			t.Errorf("path %q, want %q", got, want)
		}
	}
}

func readAccessLog(t *testing.T, path string) string {
	t.Helper()
	b, err := parseBootstrap("/x/p.yaml", []byte(contract+"access_log: {path: "+path+"}"))
	if err != nil {
		t.Fatal(err)
	}
	return b.GetAccessLog().GetPath()
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	listen := func(address, origin string) Override {
		return func(b *configv1.Bootstrap) (map[string]string, error) {
			b.Outbound = &configv1.Outbound{Listen: address}
			return map[string]string{"outbound.listen": origin}, nil
		}
	}
	path := writeFile(t, "pillion.yaml", contract)
	b, err := ReadBootstrap(path, listen("a:1", "PILLION_OUTBOUND"), listen("127.0.0.1:2", "--outbound"))
	if err != nil || b.GetOutbound().GetListen() != "127.0.0.1:2" {
		t.Errorf("got %v, %v; the last override wins", b.GetOutbound(), err)
	}
	_, err = ReadBootstrap(path, listen("127.0.0.1", "--outbound"))
	if err == nil || !strings.HasPrefix(err.Error(), "--outbound: outbound.listen: address ") {
		t.Errorf("error %v does not blame the flag", err)
	}
	failed := errors.New("no")
	if _, err := ReadBootstrap(path, func(*configv1.Bootstrap) (map[string]string, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	_, err = ReadBootstrap("", listen("127.0.0.1:0", "--outbound"))
	if err == nil || !strings.HasPrefix(err.Error(), "registry: is missing") {
		t.Errorf("error %v blames a file that there is not", err)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, err := ReadBootstrap(filepath.Join(folder, "none.yaml"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml: cannot be read: file does not exist: check the path") {
		t.Errorf("missing file: %v", err)
	}
	if _, err = ReadMesh(folder, DefaultMeshSize); err == nil || !strings.Contains(err.Error(), folder+": cannot be read") {
		t.Errorf("folder: %v", err)
	}
	large := writeFile(t, "large.yaml", "# "+strings.Repeat("x", MaxBootstrapSize))
	if _, err = ReadBootstrap(large); err == nil || !strings.Contains(err.Error(), "is larger than 1048576 bytes") {
		t.Errorf("large file: %v", err)
	}
	if _, err = ReadMesh(large, DefaultMeshSize); err != nil {
		t.Errorf("a mesh file may be larger: %v", err)
	}
	if _, err = ReadMesh(large, 1000); err == nil || !strings.Contains(err.Error(), "is larger than 1000 bytes") {
		t.Errorf("a mesh file that is larger than it may be: %v", err)
	}
}

// What protoyaml writes is read back the same.
func TestMeshRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mesh := meshFile().Draw(t, "mesh")
		data, err := protoyaml.Marshal(mesh)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMesh("mesh.yaml", data)
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		if !proto.Equal(got, mesh) {
			t.Fatalf("got %v, want %v", got, mesh)
		}
	})
}

func meshFile() *rapid.Generator[*configv1.MeshFile] {
	name := rapid.StringMatching(`[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?`)
	// No spaces and line breaks: the YAML library does not write all of them in
	// a form that it reads.
	texts := rapid.StringOfN(rapid.RuneFrom(nil, unicode.L, unicode.N, unicode.P, unicode.S), 1, 20, 60)
	endpoints := rapid.Custom(func(t *rapid.T) *configv1.MeshEndpoint {
		return &configv1.MeshEndpoint{
			Address: fmt.Sprintf("127.0.0.1:%d", rapid.Uint16Min(1).Draw(t, "port")),
			Weight:  new(rapid.Uint32Range(1, 65535).Draw(t, "weight")),
			Meta:    rapid.MapOfN(name, texts, 0, 3).Draw(t, "meta"),
			Tags:    rapid.SliceOfNDistinct(texts, 0, 3, rapid.ID).Draw(t, "tags"),
		}
	})
	services := rapid.Custom(func(t *rapid.T) *configv1.MeshService {
		return &configv1.MeshService{
			Grpc:      rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,5}([.][A-Z][a-z0-9_]{0,5})?`), 0, 3, rapid.ID).Draw(t, "grpc"),
			Endpoints: rapid.SliceOfNDistinct(endpoints, 0, 5, (*configv1.MeshEndpoint).GetAddress).Draw(t, "endpoints"),
		}
	})
	return rapid.Custom(func(t *rapid.T) *configv1.MeshFile {
		return &configv1.MeshFile{Services: rapid.MapOfN(name, services, 0, 4).Draw(t, "services")}
	})
}
