package consulmesh

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/load"
)

// policies returns the ACL policies that a page of the documentation has, by
// their first line.
func policies(t *testing.T, path string) map[string]string {
	t.Helper()

	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for i, part := range strings.Split(string(page), "\n```") {
		if rules, ok := strings.CutPrefix(part, "hcl\n"); ok && i%2 == 1 {
			first, _, _ := strings.Cut(rules, "\n")
			found[first] = rules
		}
	}

	return found
}

// The policies that people copy are enough for what the pages say they are for.
func TestDocumentedPoliciesAreEnough(t *testing.T) {
	t.Parallel()

	guide, readme := policies(t, "../../docs/consul.md"), policies(t, "../../README.md")
	if len(guide) != 3 || len(readme) != 1 {
		t.Fatalf("%d policies in the guide, want 3, and %d in the README, want 1", len(guide), len(readme))
	}
	agent := consul.Start(t, consul.WithACLs())
	service := newTokenFile(t, agent.Token(t, guide["# policy of a service"]))
	i := startInstance(t, agent, "greeter", "one", instanceOptions{consul: service.setting()})
	i.awaitHealth(t, agent, api.HealthPassing)
	awaitAnswer(t, agent, "greeter", testService)

	for name, rules := range map[string]string{
		"of a client":                guide["# policy of a client"],
		"of a client of one service": guide["# policy of a client of one service"],
		"of a service":               guide["# policy of a service"],
		"in the README":              strings.Join(slices.Collect(maps.Values(readme)), "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			client := startClient(t, agent, newTokenFile(t, agent.Token(t, rules)).setting())
			if _, err := load.Who(t.Context(), dialGreeter(t, client.Outbound)); err != nil {
				t.Error(err)
			}
			if lines := warnings(client); len(lines) > 0 {
				t.Errorf("it warns:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}
