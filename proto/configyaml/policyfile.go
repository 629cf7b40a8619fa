package configyaml

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// MaxPolicyFiles bounds the files of a folder of policies.
const MaxPolicyFiles = 1000

// PolicyFile is a file that holds policies: one of policies alone, a mesh file, or one of
// documents.
type PolicyFile struct {
	Path string
	data []byte
	// Mesh is what the file holds; of documents, the policies.
	Mesh *configv1.MeshFile
	// Documents is nil where the file has neither canaries nor experiments.
	Documents *DocumentsFile
	at        map[string]int // where in the file each policy is
	in        *Locator
}

// ReadPolicyFile reads the policies of a file, of limit bytes at most, and fills in
// their defaults. A mesh file's services are read too, and canaries and experiments. The
// error is a [Problems] where the content is to blame.
func ReadPolicyFile(path string, limit int64) (*PolicyFile, error) {
	data, err := readFile(path, limit)
	if err != nil {
		return nil, err
	}
	var mesh *configv1.MeshFile
	var documents *DocumentsFile
	if hasDocuments(data) {
		if documents, err = ParseDocuments(path, data); err == nil {
			mesh = &configv1.MeshFile{Policies: documents.Effective.GetPolicies()}
		}
	} else {
		mesh, err = ParseMesh(path, data)
	}
	if err != nil {
		return nil, err
	}
	f := &PolicyFile{Path: path, data: data, Mesh: mesh, Documents: documents, at: make(map[string]int, len(mesh.GetPolicies())), in: NewLocator(path, data)}
	for i, p := range mesh.GetPolicies() {
		f.at[p.GetName()] = i
	}
	return f, nil
}

// hasDocuments says whether a file holds more than policies and services can be.
func hasDocuments(data []byte) bool {
	root, _ := parseYAML(data)
	return root != nil && root.Kind == yaml.MappingNode &&
		valueOf(root, func(key string) bool { return key == "canaries" || key == "experiments" }) != nil
}

// Locate says where in the file a field of one of its policies is:
// "file:line:column: field". below is the path below the policy.
func (f *PolicyFile) Locate(policy, below string) string {
	return f.in.Policy(f.at[policy], below)
}

// PolicyPaths returns the files that a path of policies means: itself, or, if it is a
// folder, all files in it that end in ".yaml", in alphabetical order.
func PolicyPaths(path string) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return nil, fmt.Errorf("%s: cannot be read: %w: check the path", path, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("%s: cannot be read: %w", path, err)
	case !info.IsDir():
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", path, err)
	}
	var paths []string
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".yaml" {
			continue
		}
		// What a link leads to counts, and what leads nowhere is told of when it is read.
		file := filepath.Join(path, entry.Name())
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			continue
		}
		paths = append(paths, file)
	}
	if len(paths) > MaxPolicyFiles {
		return nil, fmt.Errorf("%s: holds %d files that end in .yaml, but may hold %d: is it the right folder?", path, len(paths), MaxPolicyFiles)
	}
	slices.Sort(paths)
	return paths, nil
}

// ParsePolicies reads a file of policies that is in use, as [ParseMeshInPart] does a
// mesh file. Services are not for such a file.
func ParsePolicies(path string, data []byte) ([]*configv1.Policy, []PolicyProblems, error) {
	if err := onlyPolicies(path, data); err != nil {
		return nil, nil, err
	}
	mesh, refused, err := ParseMeshInPart(path, data)
	return mesh.GetPolicies(), refused, err
}

// OnlyPolicies says that the file has services or documents, where it is to have none.
func (f *PolicyFile) OnlyPolicies() error {
	if f.Documents != nil {
		return fmt.Errorf("%s: has canaries or experiments, which no sidecar reads from a file: pillion apply hands them to the mesh", f.Path)
	}
	return onlyPolicies(f.Path, f.data)
}

func onlyPolicies(path string, data []byte) error {
	mesh := &configv1.MeshFile{}
	doc, _ := parse(path, data, mesh)
	if doc.root == nil || mesh.Services == nil && valueOf(doc.root, func(key string) bool { return key == "services" }) == nil {
		return nil
	}
	found := findings{}
	found.addf("services", "belong into the mesh file (registry.file.path): here only policies are read")
	return doc.report(found, nil)
}
