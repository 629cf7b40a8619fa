package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/status"
)

// A sidecar's token can write any status: the terminal of whoever looks does not obey it.
func TestHostileStatus(t *testing.T) {
	t.Parallel()
	const evil = "\x1b[2J\u009b31m"
	refused := []status.Refusal{{Document: evil, Problem: evil, InForce: 1}}
	text := statusText(io.Discard, &status.Mesh{
		Sidecars: []*status.Sidecar{{
			ID: evil, Service: evil, Host: evil, Version: evil, Policies: evil,
			Behind: []string{evil}, Refused: refused, Lost: refused, Problems: []string{evil + "\nin order"},
		}},
		Documents:  []*status.Document{{Kind: "policy", Name: evil, Service: evil}},
		Runs:       []*status.Run{{Kind: "canary", Name: evil, Service: evil, Elected: evil, Reason: evil}},
		Unreadable: []string{evil},
	}, time.Now())
	if strings.ContainsAny(text, "\x1b\u009b") || strings.Contains(text, "\nin order") {
		t.Errorf("it says %q", text)
	}
}

// Just after a change all sidecars lag behind: what has gone wrong is said before that, and
// not more than anybody reads.
func TestStatusDetails(t *testing.T) {
	t.Parallel()
	m := &status.Mesh{}
	for n := range 2 * maxDetails {
		s := &status.Sidecar{Service: "web", ID: fmt.Sprintf("web-%03d", n), Behind: []string{"policy/a revision 2 (has 1)", "policy/b revision 1 (has none)"}}
		if n == 2*maxDetails-1 {
			s.Behind, s.Refused = nil, []status.Refusal{{Document: "policy/a", Problem: "it is wrong"}}
		}
		m.Sidecars = append(m.Sidecars, s)
	}
	lines := strings.Split(strings.TrimSuffix(statusDetails(m), "\n"), "\n")
	want := []string{
		"", "web web-199: has refused policy/a: it is wrong (nothing holds in its place)",
		"web web-000: has not seen policy/a revision 2 (has 1), policy/b revision 1 (has none)",
	}
	if len(lines) != 1+maxDetails+1 || !slices.Equal(lines[:3], want) || lines[len(lines)-1] != "and 100 more lines (-o json)" {
		t.Errorf("%d lines: %q … %q", len(lines), lines[:3], lines[len(lines)-1])
	}
	if text := statusDetails(&status.Mesh{Sidecars: []*status.Sidecar{{ID: "web-1"}}}); text != "" {
		t.Errorf("of what is in order it says %q", text)
	}
}
