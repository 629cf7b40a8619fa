package consulmesh

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait: whoever waits that long has failed.
	patience = 60 * time.Second
	// soon is how long news from Consul may take until traffic follows it, on a machine
	// that is busy with other things; what is not told takes ten seconds.
	soon = 5 * time.Second
)

// within says how long something took, and that it may take until soon.
func within(t testing.TB, what string, from, until time.Time) {
	t.Helper()

	took := until.Sub(from)
	t.Logf("%s after %v", what, took.Round(time.Millisecond))
	if took > soon {
		t.Errorf("%s after %v, want within %v", what, took, soon)
	}
}

// line is one line of a sidecar's own log.
type line struct {
	Level   string `json:"level"`
	Message string `json:"msg"`
}

// lines are what a sidecar has said so far.
func lines(sidecar *harness.Sidecar) (said []line) {
	for text := range strings.Lines(sidecar.Output()) {
		var one line
		if json.Unmarshal([]byte(text), &one) == nil {
			said = append(said, one)
		}
	}

	return said
}

// warnings are the lines that a person should look at.
func warnings(sidecar *harness.Sidecar) (said []string) {
	for _, one := range lines(sidecar) {
		if one.Level == "WARN" || one.Level == "ERROR" {
			said = append(said, one.Message)
		}
	}

	return said
}

// awaitLine waits for a line that holds all of the texts.
func awaitLine(t testing.TB, sidecar *harness.Sidecar, texts ...string) {
	t.Helper()

	consul.Eventually(t, fmt.Sprintf("the sidecar says %q", texts), func() bool {
		return slices.ContainsFunc(lines(sidecar), func(one line) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(one.Message, text) })
		})
	})
}
