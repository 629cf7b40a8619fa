// Package configyaml reads Pillion's configuration messages from YAML files,
// fills in their defaults and checks them, so that every error names file,
// line, column and field. It does not know what the fields do.
package configyaml

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

const (
	// MaxBootstrapSize bounds a bootstrap file, in bytes.
	MaxBootstrapSize = 1 << 20
	// DefaultMeshSize bounds a mesh file, in bytes, where the bootstrap says
	// nothing (registry.file.max_size): some 100,000 endpoints.
	DefaultMeshSize = 16 << 20
)

// Override sets fields of a bootstrap over what its file says, before defaults
// are filled in and anything is checked. It returns by field path
// ("outbound.listen") where each of them came from ("--outbound",
// "PILLION_OUTBOUND"), so that an error about the field says so instead of
// pointing at the file.
type Override func(*configv1.Bootstrap) (origins map[string]string, err error)

// ReadBootstrap reads the bootstrap file at path, applies the overrides in
// their order, fills in the defaults and checks the whole. Relative paths in
// the file are made relative to its folder. An empty path stands for an empty
// file. The error is a [Problems] where the content is to blame.
func ReadBootstrap(path string, overrides ...Override) (*configv1.Bootstrap, error) {
	var data []byte
	if path != "" {
		var err error
		if data, err = readFile(path, MaxBootstrapSize); err != nil {
			return nil, err
		}
	}
	return parseBootstrap(path, data, overrides...)
}

func parseBootstrap(path string, data []byte, overrides ...Override) (*configv1.Bootstrap, error) {
	written := &configv1.Bootstrap{}
	doc, problems := parse(path, data, written)
	if len(problems) > 0 {
		return nil, doc.report(alsoRules(problems, written), nil)
	}
	resolvePaths(written, filepath.Dir(path))
	origins := map[string]string{}
	for _, override := range overrides {
		from, err := override(written)
		if err != nil {
			return nil, err
		}
		maps.Copy(origins, from)
	}
	effective := Effective(written)
	problems = checkRules(effective)
	if len(problems) == 0 {
		problems = checkBootstrap(effective)
	}
	if len(problems) > 0 {
		return nil, doc.report(problems, origins)
	}
	return effective, nil
}

// CheckBootstrap checks a bootstrap that was made in memory and whose defaults
// are filled in (see [Effective]). The error is a [Problems].
func CheckBootstrap(effective *configv1.Bootstrap) error {
	problems := checkRules(effective)
	if len(problems) == 0 {
		problems = checkBootstrap(effective)
	}
	if len(problems) > 0 {
		return (&document{}).report(problems, nil)
	}
	return nil
}

// ReadMesh reads and checks the mesh file at path and fills in its defaults. It
// refuses more than limit bytes ([configv1.FileRegistry]'s max_size).
// The error is a [Problems] where the content is to blame.
func ReadMesh(path string, limit int64) (*configv1.MeshFile, error) {
	data, err := ReadMeshData(path, limit)
	if err != nil {
		return nil, err
	}
	return ParseMesh(path, data)
}

// ReadMeshData reads a mesh file without looking at what it says, for
// [ParseMesh]. It refuses more than limit bytes.
func ReadMeshData(path string, limit int64) ([]byte, error) { return readFile(path, limit) }

// ParseMesh is [ReadMesh] for content that was read already; path is only what
// errors call it.
func ParseMesh(path string, data []byte) (*configv1.MeshFile, error) {
	mesh := &configv1.MeshFile{}
	doc, problems := parse(path, data, mesh)
	if len(problems) > 0 {
		return nil, doc.report(alsoRules(problems, mesh), nil)
	}
	effectiveMesh(mesh)
	problems = checkRules(mesh)
	if len(problems) == 0 {
		problems = checkMesh(mesh)
	}
	if len(problems) > 0 {
		return nil, doc.report(problems, nil)
	}
	return mesh, nil
}

// readFile reads at most limit bytes, whatever the path leads to.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: cannot be read: %w: check the path", path, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("%s: cannot be read: %w", path, errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", path, errors.Unwrap(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: is larger than %d bytes, which is the most that is read: is it the right file?", path, limit)
	}
	return data, nil
}
