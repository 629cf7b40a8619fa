package filewatch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func TestFoldersOf(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	for _, folder := range []string{"plain", "far/away", "release0/conf"} {
		must(t, os.MkdirAll(filepath.Join(root, folder), 0o700))
	}
	write(t, root+"/plain/mesh.yaml", "")
	write(t, root+"/far/away/mesh.yaml", "")
	for link, target := range map[string]string{
		"plain/link.yaml": "../far/away/mesh.yaml", "current": "release0", "loop": "loop", "far/up": root + "/current", "plain/gone.yaml": "nowhere/x/y",
	} {
		must(t, os.Symlink(target, filepath.Join(root, link)))
	}
	for path, want := range map[string]string{
		"plain/mesh.yaml":          "plain",
		"plain/missing.yaml":       "plain",
		"plain/mesh.yaml/x":        "plain",
		"missing/conf/mesh.yaml":   ".",
		"plain/link.yaml":          "plain far/away",
		"current/conf/mesh.yaml":   ". release0/conf",
		"far/up/conf/mesh.yaml":    "far . release0/conf",
		"loop/mesh.yaml":           ".",
		"plain/gone.yaml":          "plain",
		"far/../plain/./link.yaml": "plain far/away",
	} {
		var got []string
		for _, folder := range foldersOf(root + "/" + path) {
			relative, err := filepath.Rel(root, folder)
			must(t, err)
			got = append(got, relative)
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: watches %q, want %q", path, got, strings.Fields(want))
		}
	}
}
