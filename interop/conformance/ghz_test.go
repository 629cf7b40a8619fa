package conformance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// ghz finds the method by reflection and calls it over several connections.
func TestGhzSeesOnlyOK(t *testing.T) {
	t.Parallel()

	tool := harness.Tool(t, "ghz")

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			address := route.Open(t, serve(t, withShop, withReflectionV1))
			var code int
			var output string
			for deadline := time.Now().Add(time.Minute); ; {
				code, output = harness.Run(t, harness.Command{Path: tool, Args: []string{
					"--insecure", "--call", testService + "/UnaryCall", "--data", "{}",
					"--total", "2000", "--concurrency", "40", "--connections", "4", "--format", "json", address,
				}})
				// Before it has made a call: a busy machine may take longer for that than a
				// sidecar waits for the app's description.
				if !strings.Contains(output, "no answer within") || time.Now().After(deadline) {
					break
				}
			}
			if code != 0 {
				t.Fatalf("exit %d:\n%s", code, output)
			}

			var report struct {
				Count  int            `json:"count"`
				Status map[string]int `json:"statusCodeDistribution"`
			}
			if err := json.Unmarshal([]byte(output), &report); err != nil {
				t.Fatalf("%v in\n%s", err, output)
			}
			if report.Count != 2000 || report.Status["OK"] != 2000 {
				t.Errorf("%d calls, by status: %v", report.Count, report.Status)
			}
		})
	}
}
