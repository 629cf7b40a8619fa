// Package canary leads RPCs step by step from one subset of a service's instances to
// another, and back where that is worse (see docs/canary.md). It does not know how
// sidecars talk with each other and who is elected: package mesh does.
//
// Every sidecar has an [Agent]: it turns the states of canaries into split policies,
// counts what comes of the RPCs, and takes its own RPCs off a canary at once where it sees
// evidence itself, at a tenth of the risk of a false alarm. The elected sidecar has what
// [Lead] returns: it pools what all have counted, decides when a canary goes on or back,
// and does what people ask for.
//
// A canary is in one of these phases:
//
//	running      --hold over, RPCs enough-->  the next step, or promoted
//	running      --guard-->                   rolled back
//	running      --pause-->                   paused    (guards go on)
//	paused       --resume-->                  running
//	running, paused  --promote-->             the next step, or promoted
//	running, paused  --promote fully-->       promoted
//	running, paused, promoted  --abort-->     aborted
//	anything but running and paused  --start-->  running, in a new run
package canary

import (
	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// The groups of a canary's split policy.
const (
	StableGroup = "stable"
	CanaryGroup = "canary"
)

// kind is what a canary's RunState.kind says.
const kind = string(control.Canary)

// all is the weight of all RPCs, in 1/10,000.
const all = 10_000

// PolicyName returns what the split policy of a canary is called.
func PolicyName(name string) string { return configyaml.GeneratedOfCanaries + name }

// Active says whether a run goes on in a phase.
func Active(p controlv1.Phase) bool {
	return p == controlv1.Phase_PHASE_RUNNING || p == controlv1.Phase_PHASE_PAUSED
}

// share is which weight the canary has in a state; false: the state says nothing of where
// RPCs go.
func share(s *controlv1.RunState) (uint32, bool) {
	switch s.GetPhase() {
	case controlv1.Phase_PHASE_RUNNING, controlv1.Phase_PHASE_PAUSED:
		return min(s.GetWeight(), all), true
	case controlv1.Phase_PHASE_PROMOTED:
		return all, true
	case controlv1.Phase_PHASE_ROLLED_BACK, controlv1.Phase_PHASE_ABORTED:
		return 0, true
	}
	return 0, false
}
