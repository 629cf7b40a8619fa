package canary

import (
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/control/observe"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// run is what a sidecar knows of a canary. All of it is under Agent.mu.
type run struct {
	service, name string
	// stored is the state that the store has, told the newest that the elected sidecar said,
	// state the one that holds: the newer of them. Each may be nil.
	stored, told, state *controlv1.RunState
	doc                 *configv1.Canary // of state
	refused             uint64           // the number of a state that could not be obeyed

	guards   *guards
	evidence *evidence
	// step is what is counted; nil: nothing is.
	step *step
	// tripped is what the sidecar's own judge has found in this step; nil: nothing.
	tripped *finding
	// reported is what was said last, and when.
	reported   *meshv1.CanaryCounts
	reportedAt time.Time
	heard      uint64 // the number of the state that was said last to be obeyed
}

// step are the counters of one step.
type step struct {
	run            uint64
	number         uint32
	stable, canary *observe.Counter
	urgent         observe.CodeSet
	// events are one more than the events that there were at the last look.
	events [2]uint64
	// last is what the events came to when they were known last.
	last pair
}

// follow has a state hold, which may be nil.
func (r *run) follow(s *controlv1.RunState, doc *configv1.Canary) {
	before := r.state
	r.state, r.doc = s, doc
	if s == nil || !Active(s.GetPhase()) {
		r.step, r.tripped, r.evidence, r.guards = nil, nil, nil, nil
		return
	}
	if r.step != nil && r.step.run == s.GetRun() && r.step.number == s.GetStep() {
		return // paused or resumed: counting goes on, and what was found holds
	}
	if r.evidence == nil || before.GetRun() != s.GetRun() || r.tripped != nil {
		// After a finding the next step is judged for itself: it would be over at once.
		r.guards = compileGuards(doc)
		r.evidence = newEvidence(r.guards)
	} else {
		r.evidence.nextStep()
	}
	r.tripped, r.reported = nil, nil
	r.step = &step{run: s.GetRun(), number: s.GetStep(), urgent: r.guards.urgent}
	r.step.stable, r.step.canary = observe.NewPair()
}

// setBack takes note that the store has a state from before the one that it had, such as
// after a snapshot of Consul's was restored. What was obeyed since counts no more, or
// nothing new would be obeyed until its number is reached; but a run that was ended
// does not go on: whoever is elected is told.
func (r *run) setBack(s *controlv1.RunState) {
	last := r.stored
	if newer(r.told, last) {
		last = r.told
	}
	r.told = nil
	if over(last) && last.GetRun() == s.GetRun() {
		r.told = last
	}
}

// weight is the canary's share on this sidecar; false: the canary says nothing of where
// RPCs go.
func (r *run) weight() (uint32, bool) {
	weight, ok := share(r.state)
	if r.tripped != nil {
		weight = 0
	}
	return weight, ok
}

// read returns what was counted in the step, with the events from the outside.
func (r *run) read(events func(service, subset string) (uint64, int, bool)) *pair {
	p := &r.step.last
	r.step.stable.Read(&p.stable)
	r.step.canary.Read(&p.canary)
	if events != nil {
		r.event(&p.stable, 0, r.doc.GetStable(), events)
		r.event(&p.canary, 1, r.doc.GetCanary(), events)
	}
	return p
}

func (r *run) event(c *observe.Counts, i int, subset string, events func(service, subset string) (uint64, int, bool)) {
	n, instances, ok := events(r.service, subset)
	if !ok {
		return
	}
	// 0 stands for: not known yet. Whoever counts may have begun anew.
	if last := r.step.events[i]; last > n+1 {
		c.Ejections += n
	} else if last > 0 {
		c.Ejections += n + 1 - last
	}
	r.step.events[i] = n + 1
	c.Instances = uint32(max(instances, 0))
}

// group is the observer of one group of a canary's split policy.
type group struct {
	agent  *Agent
	canary bool
	step   atomic.Pointer[step]
}

var _ telemetry.Observer = (*group)(nil)

// count has the group count for the step that a run is in.
func (g *group) count(r *run) { g.step.Store(r.step) }

// Ended implements telemetry.Observer.
func (g *group) Ended(o *telemetry.Outcome) {
	s := g.step.Load()
	if s == nil || o.Forced {
		return // who chose the version themselves are none that chance has divided
	}
	c := s.stable
	if g.canary {
		c = s.canary
	}
	if !c.Count(o) {
		return
	}
	if g.canary && s.urgent.Has(int(o.Code)) {
		g.agent.notice(failing)
	} else {
		g.agent.notice(counted)
	}
}
