package docs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// The commands of docs/canary.md say what stands below them, one after the other, where
// somebody is elected who does what they ask for.
func TestCanaryCommands(t *testing.T) {
	t.Parallel()
	binary, dir := pillion(t), t.TempDir()
	folder := filepath.Join(dir, "store")
	store, err := dirkv.Open(folder, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	elected := canary.Lead(canary.LeadOptions{ID: "greeter-1"})(t.Context(), "greeter", store, func(*meshv1.ReportResponse) {})
	t.Cleanup(elected.Close)
	written, ran := false, 0
	for _, b := range readPage(t, "canary.md").blocks {
		if b.lines[0] == "# documents.yaml" && !written {
			written = true
			if err := os.WriteFile(filepath.Join(dir, "documents.yaml"), []byte(strings.Join(b.lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		line, ok := strings.CutPrefix(b.lines[0], "$ ")
		if b.language != "console" || !ok {
			continue
		}
		ran++
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line, "pillion", binary, 1))
		cmd.Dir, cmd.Env = dir, environment("PILLION_CONTROL="+folder, "PILLION_AUTHOR=alice")
		output, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		got := shownTime.ReplaceAllString(strings.TrimSpace(string(output)), "2026-01-31 12:00:00")
		if want := strings.Join(b.lines[1:], "\n"); got != strings.TrimSpace(want) {
			t.Errorf("%s says:\n%s\nand not\n%s", line, got, want)
		}
	}
	if ran != 9 {
		t.Errorf("%d commands were run", ran)
	}
}
