package docs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each story of the demo can be told quickly, shows what its policies do, and comes to
// what it promises.
func TestScenarios(t *testing.T) {
	t.Parallel()
	pages := readPage(t, "policy.md").text + readPage(t, "canary.md").text + readPage(t, "experiments.md").text
	for name, shows := range map[string][]string{
		"canary": {
			"$ pillion canary start greeter-v2", "step 2, 50 %", "-- canary greeter-v2: promoted", "-- canary greeter-v3: rolled back",
			"of client 4 takes its own RPCs off canary greeter-v3", "0 back", "which had been elected; no RPC met v3 meanwhile",
		},
		"experiment": {
			"$ pillion experiment plan", "UNITS, ONE LOOK", "users: better", "-o html --save", "✓ that interval covers the 100 %", "✓ of two variants that are alike",
		},
		"ab":      {"-- mesh.yaml is edited: 50 % for v2", "users: ", "moved v1→v2", "✓ a user meets the same version"},
		"retry":   {"-- mesh.yaml is edited: a retry policy", "Unavailable", "the budget refused", "✓ the budget held"},
		"breaker": {"-- the breaker opens for ", "-- the breaker closes: ", "the breaker is open; ", "✓ while it was open"},
		"outlier": {"-- greeter b is ejected for ", "-- greeter b is used again", "-- the breaker of greeter c opens for ", "✓ it was used again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(pages, "`pillion demo --scenario "+name+"`") {
				t.Error("no page says that there is this one")
			}
			page := filepath.Join(t.TempDir(), "report.html")
			demo := start(t, "demo", "--scenario", name, "--duration", "8s", "--rate", "200", "--report", page)
			if err := demo.wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			said := strings.Join(demo.seen, "\n")
			for _, what := range shows {
				if !strings.Contains(said, what) {
					t.Errorf("it does not show %q", what)
				}
			}
			if html, err := os.ReadFile(page); name == "experiment" && (err != nil || !strings.Contains(string(html), "</svg>")) {
				t.Errorf("the report as a page has no plot: %v", err)
			}
			if strings.ContainsAny(said, "\x1b✗") {
				t.Error("its lines are not plain, or something did not come as it should")
			}
		})
	}
}
