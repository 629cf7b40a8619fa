package harness

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Mesh is a mesh file that tests rewrite while sidecars read it.
type Mesh struct {
	// Path is where the file is.
	Path string

	mu       sync.Mutex
	services map[string]Service
	policies string
}

// Service is one service of a [Mesh].
type Service struct {
	// GRPC is the full names of the gRPC services that it answers.
	GRPC      []string   `json:"grpc,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
	// TLS is what the instances speak: "off", "permissive", "strict", or "" for not
	// said.
	TLS string `json:"tls,omitempty"`
	// Identities are the SPIFFE IDs of which they have to prove one.
	Identities []string `json:"identities,omitempty"`
}

// Endpoint is one instance of a [Service].
type Endpoint struct {
	Address string            `json:"address"`
	Weight  int               `json:"weight,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// Endpoints are instances of equal weight at these addresses.
func Endpoints(addresses ...string) []Endpoint {
	endpoints := make([]Endpoint, len(addresses))
	for i, address := range addresses {
		endpoints[i] = Endpoint{Address: address}
	}

	return endpoints
}

// NewMesh writes a mesh file into a folder of the test's own.
func NewMesh(t testing.TB, services map[string]Service) *Mesh {
	t.Helper()

	mesh := &Mesh{Path: filepath.Join(t.TempDir(), "mesh.yaml"), services: map[string]Service{}}
	maps.Copy(mesh.services, services)
	mesh.write(t)

	return mesh
}

// Set replaces one service. The file is replaced as a whole, by a rename.
func (m *Mesh) Set(t testing.TB, name string, service Service) {
	t.Helper()

	m.mu.Lock()
	defer m.mu.Unlock()

	m.services[name] = service
	m.write(t)
}

// Remove takes one service out.
func (m *Mesh) Remove(t testing.TB, name string) {
	t.Helper()

	m.mu.Lock()
	defer m.mu.Unlock()

	delete(m.services, name)
	m.write(t)
}

// SetPolicies replaces all policies by these: a list in YAML, as it stands in mesh
// files below "policies:".
func (m *Mesh) SetPolicies(t testing.TB, policies string) {
	t.Helper()

	m.mu.Lock()
	defer m.mu.Unlock()

	m.policies = policies
	m.write(t)
}

func (m *Mesh) write(t testing.TB) {
	t.Helper()

	// JSON is YAML too.
	text, err := json.MarshalIndent(map[string]any{"services": m.services}, "", "  ")
	if m.policies != "" {
		text, err = json.Marshal(m.services)
		text = fmt.Appendf(nil, "services: %s\npolicies:\n%s\n", text, m.policies)
	}
	if err != nil {
		t.Fatalf("mesh file: %v", err)
	}
	replaceFile(t, m.Path, text)
}

func replaceFile(t testing.TB, path string, text []byte) {
	t.Helper()

	fresh := path + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

// Replace puts any text in the file's place, such as a bad one.
func (m *Mesh) Replace(t testing.TB, text string) {
	t.Helper()

	m.mu.Lock()
	defer m.mu.Unlock()

	replaceFile(t, m.Path, []byte(text))
}
