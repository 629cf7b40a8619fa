package scale

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"testing"
	"time"
)

// share is the CPU that one sidecar takes of all, while something is done: its goroutines
// are told by their label.
func share(t *testing.T, s *sidecar, do func()) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cpu.prof")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := pprof.StartCPUProfile(out); err != nil {
		t.Fatal(err)
	}
	do()
	pprof.StopCPUProfile()
	took := time.Since(began)
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := exec.CommandContext(t.Context(), "go", "tool", "pprof", "-tags", "-unit=ms", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	line := regexp.MustCompile(`(?m)^\s*(\S+)ms \([^)]*\):\s*` + s.id + `$`).FindSubmatch(text)
	if line == nil {
		return "too little to tell"
	}
	return string(line[1]) + " ms of CPU in " + took.Round(time.Millisecond).String()
}
