package canary

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// notByChance is how unlikely it has to be that so many sidecars' own judges found
// something by chance for the canary to stay at its step.
const notByChance = 0.05

// next returns a copy of the canary's state with the next number, in another phase.
func (r *led) next(phase controlv1.Phase, reason, by string, at time.Time) *controlv1.RunState {
	s := proto.CloneOf(r.state)
	s.Number, s.Phase, s.Reason, s.By, s.Since = control.Next(r.highest), phase, documents.Line(reason), documents.Line(by), timestamppb.New(at)
	s.Refusal = nil
	if weight, ok := share(s); ok {
		s.Weight = weight
	}
	if r.active() && !Active(phase) {
		s.Guards, s.Tally = r.evidence.states(), r.whole()
	}
	return s
}

// rollBack returns the state after a guard has found the canary worse; nil: none has.
func (r *led) rollBack(by string, at time.Time) *controlv1.RunState {
	if !r.active() || len(r.guards.tests) == 0 {
		return nil
	}
	if f := r.evidence.found(r.guards.level(pooledPart)); f != nil {
		return r.next(controlv1.Phase_PHASE_ROLLED_BACK, f.reason, by, at)
	}
	tripped, of := r.pool.trippedBy()
	if chance(len(tripped), of, r.guards.falseAlarm*localPart) > r.guards.falseAlarm*(1-pooledPart) {
		return nil
	}
	return r.next(controlv1.Phase_PHASE_ROLLED_BACK, fmt.Sprintf("%d of %d sidecars have found it worse by themselves: %s",
		len(tripped), of, strings.Join(slices.Compact(slices.Sorted(maps.Values(tripped))), ", ")), by, at)
}

// waits is what a step waits for.
type waits struct {
	// for what, on one line; empty: for nothing, it is over.
	what string
	// until when, where nothing but time is missing.
	until time.Time
}

// step returns the canary's step.
func (r *led) step() *configv1.CanaryStep {
	steps := r.doc.GetSteps()
	return steps[min(max(int(r.state.GetStep())-1, 0), len(steps)-1)]
}

// waiting says what the canary's step waits for. known is since when all that report had
// time to.
func (r *led) waiting(at, known time.Time) waits {
	step := r.step()
	holds := r.state.GetStepSince().AsTime().Add(step.GetHold().AsDuration())
	if holds.Before(known) {
		holds = known
	}
	need := uint64(step.GetMinRpcs())
	tripped, of := r.pool.trippedBy()
	switch {
	case r.state.GetPhase() == controlv1.Phase_PHASE_PAUSED:
		return waits{what: "it is paused: `pillion canary resume " + r.name + "` has it go on"}
	case step.GetManual():
		return waits{what: "somebody to go on: `pillion canary promote " + r.name + "`"}
	case len(tripped) > 0 && chance(len(tripped), of, r.guards.falseAlarm*localPart) < notByChance:
		return waits{what: fmt.Sprintf("%d of %d sidecars have taken their own RPCs off the canary (%s): look why, then promote or abort it",
			len(tripped), of, strings.Join(slices.Compact(slices.Sorted(maps.Values(tripped))), ", "))}
	case r.pool.total.canary.RPCs() < need:
		return waits{what: fmt.Sprintf("%d of the canary's RPCs, there were %d", need, r.pool.total.canary.RPCs())}
	case r.guards.compareStable() && r.state.GetWeight() < all && r.pool.total.stable.RPCs() < need:
		return waits{what: fmt.Sprintf("%d of the stable version's RPCs to compare with, there were %d", need, r.pool.total.stable.RPCs())}
	case r.outage():
		return waits{what: fmt.Sprintf("an outage to be over: %d of the canary's %d RPCs in this step failed; if that is as it should be, promote it",
			r.pool.total.canary.Failures(r.guards.failing), r.pool.total.canary.RPCs())}
	case at.Before(holds):
		return waits{what: fmt.Sprintf("the step's time, %v, to be over", step.GetHold().AsDuration()), until: holds}
	}
	return waits{}
}

// outage says whether more than half of the canary's RPCs in the step failed. No guard may
// have found that: where the stable version fails as much, the canary is no worse, and at a
// weight of 10000 there is nothing to compare it with. But it is no time to send it more. A
// shift, which has no guards, goes on; so does a canary whose guards allow as much.
func (r *led) outage() bool {
	if len(r.guards.tests) == 0 {
		return false
	}
	c := &r.pool.total.canary
	return float64(c.Failures(r.guards.failing)) > r.guards.outage*float64(c.RPCs())
}

// forward returns the state after the step is over, as it was found or somebody wishes.
func (r *led) forward(reason, by string, at time.Time) *controlv1.RunState {
	steps := r.doc.GetSteps()
	n := int(r.state.GetStep())
	if n >= len(steps) {
		return r.next(controlv1.Phase_PHASE_PROMOTED, reason, by, at)
	}
	s := r.next(controlv1.Phase_PHASE_RUNNING, reason, by, at)
	s.Step, s.Weight, s.StepSince = uint32(n+1), steps[n].GetWeight(), timestamppb.New(at)
	s.Guards, s.Tally = r.evidence.states(), r.whole()
	return s
}

// onward returns the state after a step that has nothing to wait for any more; nil: it has.
func (r *led) onward(by string, at, known time.Time) *controlv1.RunState {
	if !r.active() || r.waiting(at, known).what != "" {
		return nil
	}
	t := r.tally()
	reason := fmt.Sprintf("step %d has lasted its %v: of the canary's %d RPCs %d failed, of the stable version's %d %d", r.state.GetStep(),
		r.step().GetHold().AsDuration(), t.GetCanaryRpcs(), t.GetCanaryFailures(), t.GetStableRpcs(), t.GetStableFailures())
	return r.forward(reason, by, at)
}
