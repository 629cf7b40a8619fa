package main

import (
	"io"
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
