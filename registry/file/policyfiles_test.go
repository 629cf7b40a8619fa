package file

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/registry"
)

// policyFixture is an open source of policies, its log, and a watch of it.
type policyFixture struct {
	*PolicyFiles
	log    records
	states chan *registry.Policies
}

func openPolicies(t *testing.T, path string) *policyFixture {
	t.Helper()
	f := &policyFixture{log: make(records, 100), states: make(chan *registry.Policies, 100)}
	source, err := OpenPolicies(path, configyaml.DefaultMeshSize, slog.New(f.log))
	must(t, err)
	f.PolicyFiles = source
	var watching sync.WaitGroup
	watching.Go(func() { source.WatchPolicies(t.Context(), func(p *registry.Policies) { f.states <- p }) })
	t.Cleanup(func() {
		source.Close()
		watching.Wait()
	})
	return f
}

// expect waits for the next state, of policies written as "name default".
func (f *policyFixture) expect(t *testing.T, want ...string) *registry.Policies {
	t.Helper()
	select {
	case now := <-f.states:
		var got []string
		for _, p := range now.List {
			got = append(got, p.GetName()+" "+p.GetTimeout().GetDefault().AsDuration().String())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("in force are %q, want %q", got, want)
		}
		return now
	case <-time.After(30 * time.Second):
		t.Fatalf("no change is handed over, want %q; status: %+v", want, f.Status())
		return nil
	}
}

func timeout(name, methods, d string) string {
	return "- {name: " + name + ", service: greeter, methods: [" + methods + "], timeout: {default: " + d + "}}\n"
}

func refusals(p *registry.Policies) (out []string) {
	for _, r := range p.Refused {
		out = append(out, r.Policy+" | "+r.Problem)
	}
	return out
}

// replace writes a file as editors do: beside it, and then over it.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	must(t, os.Rename(path+".new", path))
}

func TestAFolderOfPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("b.yaml"), "policies:\n"+timeout("two", "x.Y", "2s"))
	write(t, at("a.yaml"), "policies:\n"+timeout("one", "x.Z", "1s"))
	write(t, at("notes.txt"), "services: {}\n")
	must(t, os.Mkdir(at("old.yaml"), 0o700))
	f := openPolicies(t, dir)
	now := f.expect(t, "one 1s", "two 2s")
	if now.Places["two"] != at("b.yaml")+":2:3" || !strings.HasPrefix(now.Locate("two", "timeout.default"), at("b.yaml")+":2:68: ") {
		t.Errorf("it says that two is at %s, %s", now.Places["two"], now.Locate("two", "timeout.default"))
	}
	if st := f.Status(); st.Policies != 2 || st.Err != nil || st.LoadedAt.IsZero() {
		t.Errorf("%+v", st)
	}

	// A further file, with a name that is taken.
	replace(t, at("c.yaml"), "policies:\n"+timeout("one", "x.W", "9s")+timeout("three", "x.V", "3s"))
	now = f.expect(t, "one 1s", "two 2s", "three 3s")
	if got := refusals(now); len(got) != 1 || !strings.Contains(got[0], "one | "+at("c.yaml")+":2:10: policies[0].name: there is one of this name in "+at("a.yaml")) {
		t.Errorf("refused are %q", got)
	}

	// One that is wrong as a whole stays as it was, and the others do not wait for it.
	replace(t, at("c.yaml"), "policies: [\n")
	now = f.expect(t, "one 1s", "two 2s", "three 3s")
	if got := refusals(now); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, " | "+at("c.yaml")+":") }) {
		t.Errorf("refused are %q", got)
	}
	if st := f.Status(); st.Err == nil || st.FailingSince.IsZero() {
		t.Errorf("%+v", st)
	}
	replace(t, at("a.yaml"), "policies:\n"+timeout("one", "x.Z", "4s"))
	f.expect(t, "one 4s", "two 2s", "three 3s")

	// Services are for the mesh file.
	replace(t, at("b.yaml"), "services: {greeter: {}}\npolicies:\n"+timeout("two", "x.Y", "5s"))
	now = f.expect(t, "one 4s", "two 2s", "three 3s")
	if got := refusals(now); !slices.Contains(got, " | "+at("b.yaml")+":1:11: services: belong into the mesh file (registry.file.path): here only policies are read") {
		t.Errorf("refused are %q", got)
	}
	must(t, os.Remove(at("b.yaml")))
	f.expect(t, "one 4s", "three 3s")
	replace(t, at("c.yaml"), "policies:\n"+timeout("three", "x.V", "3s"))
	if now = f.expect(t, "one 4s", "three 3s"); len(now.Refused) > 0 {
		t.Errorf("refused are %q", refusals(now))
	}
	if st := f.Status(); st.Err != nil {
		t.Errorf("%+v", st)
	}
}

// A folder that is gone, or replaced, leaves in force what it held.
func TestAFolderOfPoliciesThatIsReplaced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for i, release := range []string{"r1", "r2"} {
		must(t, os.Mkdir(filepath.Join(root, release), 0o700))
		write(t, filepath.Join(root, release, "a.yaml"), "policies:\n"+timeout("one", "x.Z", []string{"1s", "2s"}[i]))
	}
	current := filepath.Join(root, "current")
	must(t, os.Symlink("r1", current))
	f := openPolicies(t, current)
	f.expect(t, "one 1s")
	must(t, os.Remove(current))
	for record := range f.log {
		if strings.Contains(record, "policies are not taken over") {
			break
		}
	}
	must(t, os.Symlink("r2", current))
	f.expect(t, "one 2s")
}

func TestAFileOfPolicies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "p.yaml")
	write(t, path, "policies:\n"+timeout("one", "x.Z", "1s"))
	f := openPolicies(t, path)
	f.expect(t, "one 1s")
	replace(t, path, "")
	now := f.expect(t, "one 1s")
	if got := refusals(now); len(got) != 1 || !strings.Contains(got[0], "the file is empty") {
		t.Errorf("refused are %q", got)
	}
	replace(t, path, "policies: []\n")
	f.expect(t)
	replace(t, path, "policies:\n"+timeout("one", "x.Z", "3s"))
	f.expect(t, "one 3s")
}

func TestWrongFilesOfPoliciesAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "whole.yaml"), "policies: [\n")
	write(t, filepath.Join(dir, "mesh.yaml"), "services: {}\n")
	for name, says := range map[string]string{
		"whole.yaml": "is not valid YAML",
		"mesh.yaml":  "services: belong into the mesh file",
		"none.yaml":  "cannot be read: file does not exist: check the path",
		"":           "is not valid YAML",
	} {
		s, err := OpenPolicies(filepath.Join(dir, name), configyaml.DefaultMeshSize, nil)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, without %q", name, err, says)
		}
	}
}
