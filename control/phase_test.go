package control

import (
	"testing"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func TestPhaseWord(t *testing.T) {
	t.Parallel()
	for p, want := range map[controlv1.Phase]string{
		controlv1.Phase_PHASE_UNSPECIFIED: "not started",
		controlv1.Phase_PHASE_RUNNING:     "running",
		controlv1.Phase_PHASE_ROLLED_BACK: "rolled back",
		controlv1.Phase(77):               "77", // of a newer version
	} {
		if got := PhaseWord(p); got != want {
			t.Errorf("%v is called %q", p, got)
		}
	}
}
