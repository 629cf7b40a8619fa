package docs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shownTime is a time as commands show it to people.
var shownTime = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)

// The commands of docs/control.md about documents say what stands below them, one after
// the other.
func TestDocumentCommands(t *testing.T) {
	t.Parallel()
	const title = "Documents on the command line"
	p := readPage(t, "control.md")
	about := section(t, p, title)
	binary, dir := pillion(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil { // a new one is warned of
		t.Fatal(err)
	}
	var ran []string
	for _, b := range p.blocks {
		if !strings.Contains(about, strings.Join(b.lines, "\n")) {
			continue
		}
		if b.lines[0] == "# documents.yaml" {
			if err := os.WriteFile(filepath.Join(dir, "documents.yaml"), []byte(strings.Join(b.lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		line, ok := strings.CutPrefix(b.lines[0], "$ ")
		if b.language != "console" || !ok {
			continue
		}
		command := strings.Fields(line)[1]
		if command == "diff" { // the page says what is changed first
			edit := exec.CommandContext(t.Context(), "sed", "-i", "s/2s/1s/", "documents.yaml")
			edit.Dir = dir
			if output, err := edit.CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, output)
			}
		}
		ran = append(ran, command)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line, "pillion", binary, 1))
		cmd.Dir, cmd.Env = dir, environment("PILLION_CONTROL="+filepath.Join(dir, "store"), "PILLION_AUTHOR=alice")
		output, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		got := shownTime.ReplaceAllString(strings.TrimSpace(string(output)), "2026-01-31 12:00:00")
		if want := strings.Join(b.lines[1:], "\n"); got != strings.TrimSpace(want) {
			t.Errorf("%s says:\n%s\nand not\n%s", line, got, want)
		}
	}
	if want := []string{"apply", "get", "diff", "plan", "apply", "rollback", "history", "delete"}; !slices.Equal(ran, want) {
		t.Errorf("the page shows %q, not %q", ran, want)
	}
}
