package docs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the page shows of commands is what they say in their own tests, of the page's own
// document.
func TestExperimentCommands(t *testing.T) {
	t.Parallel()
	said, err := os.ReadFile(filepath.Join("..", "cmd", "pillion", "testdata", "experiment.golden"))
	if err != nil {
		t.Fatal(err)
	}
	test, err := os.ReadFile(filepath.Join("..", "cmd", "pillion", "experiment_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	shown, documents := 0, 0
	for _, b := range readPage(t, "experiments.md").blocks {
		text := strings.Join(b.lines, "\n")
		switch {
		case b.language == "text" && strings.Contains(text, "checkout-button"), b.language == "text" && strings.HasPrefix(text, "MEASURE"):
			shown++
			if !strings.Contains(string(said), text+"\n") {
				t.Errorf("no command says\n%s", text)
			}
		case strings.Contains(text, "name: checkout-button"):
			documents++
			if _, document, _ := strings.Cut(text, "\n"); !strings.Contains(string(test), "`"+document+"\n`") {
				t.Errorf("the document of the test is another:\n%s", document)
			}
		}
	}
	if shown < 5 || documents != 1 {
		t.Errorf("%d answers and %d documents were found", shown, documents)
	}
}
