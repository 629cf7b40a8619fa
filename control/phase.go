package control

import (
	"strings"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// PhaseWord is what a phase is called in messages, tables and metrics, such as "rolled back".
func PhaseWord(p controlv1.Phase) string {
	if p == controlv1.Phase_PHASE_UNSPECIFIED {
		return "not started"
	}
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(p.String(), "PHASE_"), "_", " "))
}
