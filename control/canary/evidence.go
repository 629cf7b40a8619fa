package canary

import (
	"fmt"
	"time"

	"github.com/pillion-proxy/pillion/control/observe"
	"github.com/pillion-proxy/pillion/control/sequential"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// pair is what was counted of both versions.
type pair struct{ stable, canary observe.Counts }

// evidence is what a canary's tests have come to: of one sidecar's RPCs, or of all. It
// looks at counts whenever there are more, and goes on from step to step.
type evidence struct {
	guards *guards
	tests  []testState
	// seen is what of the step was looked at.
	seen pair
	// before is how many RPCs of the canary's there were in the steps before.
	before uint64
}

// testState is what one test has come to; test is one of the two before it.
type testState struct {
	exceeds *sequential.Exceeds
	labels  *sequential.Labels
	test    test
	slow    slowness
}

// newEvidence returns evidence of nothing.
func newEvidence(g *guards) *evidence {
	e := &evidence{guards: g, tests: make([]testState, len(g.tests))}
	for i := range g.tests {
		e.tests[i].begin(&g.tests[i])
	}
	return e
}

// begin has a test begin anew.
func (s *testState) begin(t *guardTest) {
	// The schema's rules have limits and ratios be such that neither fails; were they
	// broken, the test would be about something that cannot be.
	var err error
	if t.kind == errorsMax {
		if s.exceeds, err = sequential.NewExceeds(t.limit); err != nil {
			s.exceeds, _ = sequential.NewExceeds(0.5)
		}
		s.test = s.exceeds
	} else {
		if s.labels, err = sequential.NewLabels(t.ratioOfEvents()); err != nil {
			s.labels, _ = sequential.NewLabels(1)
		}
		s.test = s.labels
	}
	weigh(s.test)
	s.slow.begin()
}

// ratioOfEvents is how many times oftener than to the stable version events may happen to
// the canary. Slow RPCs are told by limits of their own for each version, see slowness.
func (t *guardTest) ratioOfEvents() float64 {
	if t.kind == latencyAgainstStable {
		return 1
	}
	return t.ratio
}

// nextStep has counts begin at nothing again; the tests go on.
func (e *evidence) nextStep() {
	e.before += e.seen.canary.RPCs()
	e.seen = pair{}
	for i := range e.tests {
		e.tests[i].slow.begin()
	}
}

// look looks at what was counted in the step so far. weight is the canary's.
func (e *evidence) look(now *pair, weight uint32, at time.Time) {
	stable, err := now.stable.Since(&e.seen.stable)
	if err != nil {
		return // cannot be: whoever reports counts is checked
	}
	canary, err := now.canary.Since(&e.seen.canary)
	if err != nil {
		return
	}
	share := float64(weight) / all
	for i := range e.tests {
		t, s := &e.guards.tests[i], &e.tests[i]
		switch {
		case s.exceeds != nil:
			s.exceeds.Add(canary.RPCs(), canary.Failures(t.codes))
		case t.kind == errorsAgainstStable:
			s.labels.Add(sequential.LabelCounts{
				CanaryEvents: canary.Failures(t.codes), StableEvents: stable.Failures(t.codes),
				CanaryRPCs: canary.RPCs(), StableRPCs: stable.RPCs(), Share: share,
			})
		case t.kind == latencyAgainstStable:
			s.slow.look(s.labels, &stable, &canary, share, at)
			s.slow.settle(t, &now.stable)
		case t.kind == ejectionsAgainstStable:
			if n := canary.Instances + stable.Instances; n > 0 {
				s.labels.Add(sequential.LabelCounts{
					CanaryEvents: canary.Ejections, StableEvents: stable.Ejections, Share: float64(canary.Instances) / float64(n),
				})
			}
		}
	}
	from := e.before + e.seen.canary.RPCs()
	e.seen = *now
	to := e.before + e.seen.canary.RPCs()
	for i := range e.tests {
		every := uint64(startEvery)
		if e.tests[i].labels != nil {
			every = startLabelsEvery
		}
		if weight, ok := startsBetween(from, to, every); ok {
			start(e.tests[i].test, weight)
		}
	}
}

// finding is what a test has found.
type finding struct{ guard, reason string }

// found returns the first test that has found the canary worse, each at a risk of level of
// doing so wrongly; nil: none has.
func (e *evidence) found(level float64) *finding {
	for i := range e.tests {
		t, s := &e.guards.tests[i], &e.tests[i]
		if !e.enough(t) {
			continue
		}
		if s.test.Rejects(level) {
			return &finding{guard: t.name, reason: e.explain(t, s)}
		}
	}
	return nil
}

// enough says whether a test has seen as much in the step as it is to see before it says
// anything.
func (e *evidence) enough(t *guardTest) bool {
	c := &e.seen.canary
	switch t.kind {
	case latencyAgainstStable:
		return c.Timed() >= t.minRPCs && e.seen.stable.Timed() >= t.minRPCs
	case ejectionsAgainstStable:
		return c.Ejections >= t.minEvents
	default:
		return c.RPCs() >= t.minRPCs && c.Failures(t.codes) >= t.minEvents
	}
}

func (s *testState) p() float64 { return s.test.P() }

// explain says on what a finding rests.
func (e *evidence) explain(t *guardTest, s *testState) string {
	stable, canary := &e.seen.stable, &e.seen.canary
	var what string
	switch t.kind {
	case errorsMax:
		what = fmt.Sprintf("%d of the canary's %d RPCs failed, allowed is a share of %.3g", canary.Failures(t.codes), canary.RPCs(), t.limit)
	case errorsAgainstStable:
		what = fmt.Sprintf("%d of the canary's %d RPCs failed, of the stable version's %d of %d",
			canary.Failures(t.codes), canary.RPCs(), stable.Failures(t.codes), stable.RPCs())
	case latencyAgainstStable:
		what = fmt.Sprintf("%.4g %% of the canary's %d RPCs took up to %v, of the stable version's %d up to %v", t.percentile,
			canary.Timed(), short(canary.Percentile(t.percentile)), stable.Timed(), short(stable.Percentile(t.percentile)))
	case ejectionsAgainstStable:
		what = fmt.Sprintf("of the canary's %d instances there were %d ejections, of the stable version's %d there were %d",
			canary.Instances, canary.Ejections, stable.Instances, stable.Ejections)
	}
	return fmt.Sprintf("%s: %s in this step (p = %.2g)", t.name, what, s.p())
}

// short leaves digits away that a histogram does not know.
func short(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// states returns what the tests have come to, to be kept.
func (e *evidence) states() []*controlv1.GuardState {
	var list []*controlv1.GuardState
	for i := range e.tests {
		t := e.tests[i].test
		list = append(list, &controlv1.GuardState{Name: e.guards.tests[i].name, P: t.P(), Evidence: t.Evidence()})
	}
	return list
}

// restore goes on from what was kept, after so many RPCs of the canary's. A test of which nothing fits begins anew, and the
// names of those are returned.
func (e *evidence) restore(kept []*controlv1.GuardState, rpcs uint64) (anew []string) {
	e.before = rpcs
	by := map[string]*controlv1.GuardState{}
	for _, s := range kept {
		by[s.GetName()] = s
	}
	for i := range e.tests {
		name := e.guards.tests[i].name
		s := by[name]
		if s == nil {
			continue
		}
		if err := e.tests[i].test.Restore(s.GetEvidence(), s.GetP()); err != nil {
			anew = append(anew, name)
		}
	}
	return anew
}
