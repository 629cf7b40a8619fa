package conformance

import (
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// h2specCases is what h2spec 2.2.1 checks: 145 cases, and one more that it
// calls strict.
const h2specCases = "146 tests, 146 passed, 0 skipped, 0 failed"

func TestH2specAgainstTheOutboundPort(t *testing.T) {
	t.Parallel()

	runH2spec(t, harness.Outbound(t, startInteropServer(t)).Outbound)
}

func TestH2specAgainstTheInboundPort(t *testing.T) {
	t.Parallel()

	runH2spec(t, harness.Inbound(t, startInteropServer(t)).Inbound)
}

func runH2spec(t *testing.T, address string) {
	t.Helper()

	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}

	// Its default of 2 s for an answer is short on a machine that runs all tests at once.
	_, output := harness.Run(t, harness.Command{
		Path: harness.Tool(t, "h2spec"),
		Args: []string{"--strict", "--host", host, "--port", port, "--timeout", "5"},
	})

	closing := regexp.MustCompile(`\d+ tests, \d+ passed, \d+ skipped, \d+ failed`).FindString(output)
	t.Log(closing)
	if closing != h2specCases {
		_, failures, _ := strings.Cut(output, "Failures:")
		t.Errorf("h2spec says %q, want %q. Failures:%s", closing, h2specCases, failures)
	}
}
