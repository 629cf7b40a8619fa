package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Tool returns the path of a program from the folder that the variable
// PILLION_TOOLS names. Where it is not there, the test is skipped, and the
// reason says how to get it.
func Tool(t testing.TB, name string) string {
	t.Helper()

	folder := os.Getenv("PILLION_TOOLS")
	if folder == "" {
		t.Skipf("PILLION_TOOLS is not set, so there is no %s: run `make test-interop`, or `make tools` and set PILLION_TOOLS to the folder .cache/tools", name)
	}

	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not in PILLION_TOOLS (%v): run `make tools`", name, err)
	}

	return path
}

// Pillion returns the path of a pillion that was built with the race detector:
// what the variable PILLION_BIN names, else one that is built now, once for the
// whole test run.
func Pillion(t testing.TB) string {
	t.Helper()

	return built(t, "PILLION_BIN", buildRace)
}

// PlainPillion returns the path of a pillion as users get it, without the race
// detector (which takes several times the memory): what the variable
// PILLION_PLAIN_BIN names, else one that is built now.
func PlainPillion(t testing.TB) string {
	t.Helper()

	return built(t, "PILLION_PLAIN_BIN", buildPlain)
}

var (
	buildRace  = sync.OnceValues(func() (string, error) { return build("1", "-race") })
	buildPlain = sync.OnceValues(func() (string, error) { return build("0") })
)

func built(t testing.TB, variable string, build func() (string, error)) string {
	t.Helper()

	if path := os.Getenv(variable); path != "" {
		return path
	}

	path, err := build()
	if err != nil {
		t.Fatalf("build pillion (%s is not set): %v", variable, err)
	}

	return path
}

// build leaves its result in the system's folder of temporary files: several
// tests share it, so none of them can remove it. Its name makes the next run
// replace it, at once, because another run may just be starting it.
func build(cgo string, flags ...string) (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("pillion-interop-%d-cgo%s", os.Getuid(), cgo))
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	// The product is built in its own module, with the versions that users get.
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/pillion-proxy/pillion").Output()
	if err != nil {
		return "", fmt.Errorf("find the product's module: %w", err)
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", fresh, "./cmd/pillion")...)
	cmd.Dir = strings.TrimSpace(string(root))
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}

	return path, os.Rename(fresh, path)
}
