package docs_test

import (
	"strings"
	"testing"
)

// Each story of the demo can be told quickly, shows what its policies do, and comes to
// what it promises.
func TestScenarios(t *testing.T) {
	t.Parallel()
	policies := readPage(t, "policy.md").text
	for name, shows := range map[string][]string{
		"ab":      {"-- mesh.yaml is edited: 50 % for v2", "users: ", "moved v1→v2", "✓ a user meets the same version"},
		"retry":   {"-- mesh.yaml is edited: a retry policy", "Unavailable", "the budget refused", "✓ the budget held"},
		"breaker": {"-- the breaker opens for ", "-- the breaker closes: ", "the breaker is open; ", "✓ while it was open"},
		"outlier": {"-- greeter b is ejected for ", "-- greeter b is used again", "-- the breaker of greeter c opens for ", "✓ it was used again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(policies, "`pillion demo --scenario "+name+"`") {
				t.Error("policy.md does not say that there is this one")
			}
			demo := start(t, "demo", "--scenario", name, "--duration", "8s", "--rate", "200")
			if err := demo.wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			said := strings.Join(demo.seen, "\n")
			for _, what := range shows {
				if !strings.Contains(said, what) {
					t.Errorf("it does not show %q", what)
				}
			}
			if strings.ContainsAny(said, "\x1b✗") {
				t.Error("its lines are not plain, or something did not come as it should")
			}
		})
	}
}
