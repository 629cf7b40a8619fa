package canary

import (
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/ledger"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// led is a canary as the elected sidecar knows it. It is under leading.mu.
type led struct {
	service, name string
	// state holds. It is what the store has, or, if the store is away, a roll-back that it
	// does not have yet. Nil: there was no run yet.
	state *controlv1.RunState
	doc   *configv1.Canary // of state; nil: it cannot be read
	// base is the state with which this step began: what guards had come to and what was
	// counted before it. All of this step is counted from its beginning on, also by who is
	// elected in the middle of it.
	base baseline

	guards   *guards
	evidence *evidence
	pool     *pool

	// inherited is the run that had begun before this sidecar was elected; 0: none had.
	inherited uint64

	// entry is what the ledger has: what people have written, and what the store has.
	entry ledger.Entry
	// highest is the highest number that any state may have that was written.
	highest uint64
	// want is to be written; nil: nothing is. obeyed says that it holds already.
	want       *controlv1.RunState
	obeyed     bool
	committing bool
	// Before retryAt nothing is written.
	retryAt time.Time
	backoff time.Duration
	problem error // of the last commit
}

// use has later states have numbers after this one.
func (r *led) use(number uint64) {
	if control.After(number, r.highest) {
		r.highest = number
	}
}

// baseline is what was there before a step.
type baseline struct {
	guards []*controlv1.GuardState
	tally  *controlv1.Tally
}

// adopt has a state hold. Of the same step, counting goes on.
func (r *led) adopt(s *controlv1.RunState) (problem error) {
	r.state = s
	r.use(s.GetNumber())
	doc, err := r.doc, error(nil)
	if s.GetPhase() != controlv1.Phase_PHASE_UNSPECIFIED {
		if doc, err = Document(s); err != nil {
			doc = nil
		}
	}
	r.doc = doc
	if doc == nil || !Active(s.GetPhase()) {
		r.pool, r.evidence, r.guards = nil, nil, nil
		return err
	}
	if r.pool != nil && r.pool.run == s.GetRun() && r.pool.step == s.GetStep() {
		return nil
	}
	if r.evidence != nil && r.pool.run == s.GetRun() {
		r.evidence.nextStep()
	} else {
		r.guards = compileGuards(doc)
		r.evidence = newEvidence(r.guards)
		r.evidence.restore(s.GetGuards(), s.GetTally().GetCanaryRpcs())
	}
	r.pool = newPool(s.GetRun(), s.GetStep())
	r.base = baseline{guards: s.GetGuards(), tally: s.GetTally()}
	return nil
}

// active says whether a run goes on that can be decided about.
func (r *led) active() bool { return r.pool != nil }

// look has the guards look at what was counted since.
func (r *led) look(at time.Time) {
	if r.active() {
		r.evidence.look(&r.pool.total, r.state.GetWeight(), at)
	}
}

// tally returns what was counted in the step.
func (r *led) tally() *controlv1.Tally {
	s, c := &r.pool.total.stable, &r.pool.total.canary
	_, sidecars := r.pool.trippedBy()
	return &controlv1.Tally{
		StableRpcs: s.RPCs(), StableFailures: s.Failures(r.guards.failing),
		CanaryRpcs: c.RPCs(), CanaryFailures: c.Failures(r.guards.failing),
		StableLatency: s.Percentile(r.guards.percentile).Seconds(), CanaryLatency: c.Percentile(r.guards.percentile).Seconds(),
		Sidecars: uint32(sidecars),
	}
}

// whole returns what was counted in the run: before the step and in it. Latencies are the
// step's, where it has any.
func (r *led) whole() *controlv1.Tally {
	t, before := r.tally(), r.base.tally
	t.StableRpcs += before.GetStableRpcs()
	t.StableFailures += before.GetStableFailures()
	t.CanaryRpcs += before.GetCanaryRpcs()
	t.CanaryFailures += before.GetCanaryFailures()
	t.Sidecars = max(t.Sidecars, before.GetSidecars())
	if t.StableLatency == 0 {
		t.StableLatency = before.GetStableLatency()
	}
	if t.CanaryLatency == 0 {
		t.CanaryLatency = before.GetCanaryLatency()
	}
	return t
}
