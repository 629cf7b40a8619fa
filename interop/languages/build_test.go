package languages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// toy is a language whose peer is made of one file by one command.
func toy(t *testing.T, command ...string) (l Language, sources, cache string) {
	t.Helper()

	sources, cache = t.TempDir(), filepath.Join(t.TempDir(), "cache")
	write(t, filepath.Join(sources, "toy", "peer.txt"), "first")
	write(t, filepath.Join(sources, "proto", "peer.proto"), "schema")

	return Language{
		Name: "toy", Toolchain: [][]string{{"echo", "toy 1.0"}}, Install: "the toy",
		Build: []Step{{Command: command, Env: []string{"SHARED_FOLDER=" + sharedTarget}}},
	}, sources, cache
}

func write(t *testing.T, path, text string) {
	t.Helper()

	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, l Language, sources, cache string) (text string) {
	t.Helper()

	folder, version, err := Build(l, sources, cache)
	if err != nil {
		t.Fatal(err)
	}
	if version != "toy 1.0" {
		t.Errorf("version %q", version)
	}
	made, err := os.ReadFile(filepath.Join(folder, "made.txt"))
	if err != nil {
		t.Fatal(err)
	}

	return string(made)
}

func TestPeersAreBuiltOnceForTheSameSources(t *testing.T) {
	t.Parallel()

	counter := filepath.Join(t.TempDir(), "built")
	l, sources, cache := toy(t, "sh", "-c", "cat peer.txt ../proto/peer.proto > made.txt; echo >> "+counter)
	for i, change := range []struct {
		file, text string
		made       string
		builds     int
	}{
		{"toy/peer.txt", "first", "firstschema", 1},
		{"toy/peer.txt", "first", "firstschema", 1},
		{"toy/peer.txt", "second", "secondschema", 2},
		{"proto/peer.proto", "other", "secondother", 3},
		{"toy/another.txt", "", "secondother", 4},
	} {
		write(t, filepath.Join(sources, change.file), change.text)
		made := build(t, l, sources, cache)
		built, err := os.ReadFile(counter)
		if err != nil {
			t.Fatal(err)
		}
		if made != change.made || len(built) != change.builds {
			t.Errorf("step %d: made %q in %d builds, want %q in %d", i, made, len(built), change.made, change.builds)
		}
	}
}

func TestABuildThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()

	l, sources, cache := toy(t, "sh", "-c", "echo what is wrong; exit 3")
	for range 2 {
		_, _, err := Build(l, sources, cache)
		if err == nil || !strings.Contains(err.Error(), "what is wrong") {
			t.Errorf("error %v", err)
		}
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

func TestAMissingToolchainSaysWhatToInstall(t *testing.T) {
	t.Parallel()

	l, sources, cache := toy(t, "true")
	l.Toolchain = append(l.Toolchain, []string{"no-such-program-of-the-toy", "--version"})
	_, _, err := Build(l, sources, cache)
	if _, missing := errors.AsType[*MissingError](err); !missing {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"the toolchain of toy", "no-such-program-of-the-toy", "install the toy"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q says nothing of %q", err, want)
		}
	}
}

func TestGoCodeIsWhatTheSchemaSays(t *testing.T) {
	t.Parallel()

	buf := harness.Tool(t, "buf")
	fresh := t.TempDir()
	code, output := harness.Run(t, harness.Command{
		Path: buf, Args: []string{"generate", "--output", fresh},
		Env: []string{"PATH=" + filepath.Dir(buf) + ":" + os.Getenv("PATH")},
	})
	if code != 0 {
		t.Fatalf("buf: exit %d\n%s", code, output)
	}
	for _, name := range []string{"peer.pb.go", "peer_grpc.pb.go"} {
		path := filepath.Join("go", "peerpb", name)
		want, err := os.ReadFile(filepath.Join(fresh, path))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what its schema says (%v): run make generate", path, err)
		}
	}
}
