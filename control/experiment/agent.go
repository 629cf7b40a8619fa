package experiment

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/mesh"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	// saveEvery is how often counts that have changed are written to the disk.
	saveEvery = 10 * time.Second
	// lookEvery is how often the clock is looked at while an experiment is to start or end:
	// a timer goes wrong when the clock is set.
	lookEvery = 30 * time.Second
	// maxOver bounds the runs that are over and whose observers are kept: whoever compiles
	// policies notices that a run is gone long before as many others are.
	maxOver = 2 * maxRunning
)

// Options are what an Agent needs.
type Options struct {
	// Changed is told of services whose policies have changed because an experiment's
	// time has come. It may be nil.
	Changed func(service string)
	// Dir is the folder where counts are kept over a restart; "": they are not.
	Dir string
	// Owner tells this sidecar from others that keep their counts in Dir. After a restart it
	// must be the same.
	Owner  string
	Logger *slog.Logger
}

// Agent does what the states of experiments say: it divides units, and counts. Times of
// start and end are those of its own clock, so sidecars differ in them as their clocks do.
type Agent struct {
	o      Options
	writer uint64 // tells this process from others in files
	saving sync.Mutex
	saver  *time.Timer

	mu       sync.Mutex
	closed   bool
	services map[string]*service
	runs     map[string]*run // by experiment
	over     map[string]*run // those that are over, for their observers; at most maxOver
	ended    uint64          // counts those that are over
}

// service is what is known of a service's experiments.
type service struct {
	// store is what the store says, and mesh what came of a stream and is newer.
	store, mesh map[string]*controlv1.RunState
}

var (
	_ mesh.Counting = (*Agent)(nil)
	_ mesh.Hearing  = (*Agent)(nil)
)

// NewAgent returns an Agent, which is to be closed.
func NewAgent(o Options) *Agent {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(string) {}
	}
	a := &Agent{o: o, writer: rand.Uint64(), services: map[string]*service{}, runs: map[string]*run{}, over: map[string]*run{}}
	if o.Dir != "" {
		sweep(o.Dir)
		a.saver = time.AfterFunc(saveEvery, a.saveAgain)
	}
	return a
}

// Close keeps what was counted, and ends all timers. Nothing is counted any more.
func (a *Agent) Close() {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.closed = true
	if a.saver != nil {
		a.saver.Stop()
	}
	for _, r := range a.runs {
		r.stopTimer()
	}
	a.mu.Unlock()
	a.save()
}

// States hands over what the store says of all experiments of a service.
func (a *Agent) States(name string, states []*controlv1.RunState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.service(name)
	before := s.store
	s.store = map[string]*controlv1.RunState{}
	for _, state := range states {
		if state.GetKind() == string(control.Experiment) && state.GetNumber() <= control.MaxNumber {
			s.store[state.GetName()] = state
		}
	}
	for experiment, told := range s.mesh {
		now, was := s.store[experiment], before[experiment]
		// The store may be behind a stream, but what it had and has not is deleted.
		if !control.After(told.GetNumber(), now.GetNumber()) || control.After(was.GetNumber(), now.GetNumber()) {
			delete(s.mesh, experiment)
		}
	}
	a.settle(name, s)
}

// Obey implements mesh.Counting.
func (a *Agent) Obey(name string, states []*controlv1.RunState, thresholds map[string]uint64) {
	if a.obey(name, states, thresholds) {
		a.o.Changed(name)
	}
}

func (a *Agent) obey(name string, states []*controlv1.RunState, thresholds map[string]uint64) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.service(name)
	for _, state := range states {
		experiment := state.GetName()
		if state.GetKind() != string(control.Experiment) || state.GetService() != name || state.GetNumber() > control.MaxNumber ||
			!control.After(state.GetNumber(), s.store[experiment].GetNumber()) || !control.After(state.GetNumber(), s.mesh[experiment].GetNumber()) {
			continue
		}
		s.mesh[experiment] = state
		changed = true
	}
	if changed {
		a.settle(name, s)
	}
	for _, r := range a.runs {
		if t, ok := thresholds[r.key()]; ok && r.service == name {
			r.counter.lower(thresholdOf(t))
		}
	}
	return changed
}

// Hear implements mesh.Hearing: who is elected next is told it.
func (a *Agent) Hear(name string, sources map[string]*meshv1.Sources) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.runs {
		if s := sources[r.key()]; s != nil && r.service == name && len(s.GetList()) <= maxMarks {
			r.heard = s
		}
	}
}

func (a *Agent) service(name string) *service {
	s := a.services[name]
	if s == nil {
		s = &service{store: map[string]*controlv1.RunState{}, mesh: map[string]*controlv1.RunState{}}
		a.services[name] = s
	}
	return s
}

// newest returns the states that hold, by experiment.
func (s *service) newest() map[string]*controlv1.RunState {
	states := maps.Clone(s.store)
	for experiment, state := range s.mesh {
		if !control.After(states[experiment].GetNumber(), state.GetNumber()) {
			states[experiment] = state
		}
	}
	return states
}

// Known returns the states that a service's experiments are in here.
func (a *Agent) Known(name string) []*controlv1.RunState {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.services[name]; s != nil {
		return slices.Collect(maps.Values(s.newest()))
	}
	return nil
}

// settle has the runs of a service be those that its states say. a.mu is held.
func (a *Agent) settle(name string, s *service) {
	if a.closed {
		return
	}
	states := s.newest()
	for experiment, r := range a.runs {
		if r.service == name && !runs(states[experiment]) {
			a.end(r, states[experiment])
		}
	}
	for experiment, state := range states {
		if runs(state) {
			a.begin(name, experiment, state)
		}
	}
	for experiment, r := range a.over {
		if r.service == name && states[experiment] == nil {
			delete(a.over, experiment)
		}
	}
	if len(states) == 0 {
		delete(a.services, name)
	}
}

// runs says whether a state is that of an experiment that runs.
func runs(state *controlv1.RunState) bool { return state.GetPhase() == controlv1.Phase_PHASE_RUNNING }

// begin begins a run, unless it is known. a.mu is held.
func (a *Agent) begin(name, experiment string, state *controlv1.RunState) {
	document := xxhash.Sum64(state.GetDocument())
	if r := a.runs[experiment]; r != nil {
		if r.service == name && r.number == state.GetRun() && r.document == document {
			return
		}
		a.end(r, state)
	}
	e, err := decode(state.GetDocument())
	if err == nil && (e.GetName() != experiment || e.GetService() != name) {
		err = errOtherDocument
	}
	if err != nil {
		a.o.Logger.Error("an experiment cannot run here: its document is wrong", "experiment", experiment, "service", name, "error", err)
		return
	}
	r := newRun(e, state.GetRun(), document)
	a.load(r)
	r.takeObservers(a.over[experiment])
	delete(a.over, experiment)
	a.runs[experiment] = r
	r.now(time.Now())
	a.watch(r)
}

// end ends a run. a.mu is held.
func (a *Agent) end(r *run, state *controlv1.RunState) {
	r.stopTimer()
	r.detach()
	delete(a.runs, r.experiment.GetName())
	a.bury(r)
	if a.o.Dir != "" && state != nil && !a.closed {
		// The counts of a run that is over are of no more use here.
		a.forget(r)
	}
}

// bury keeps a run that is over for its observers, in the place of the one that is over for
// longest where there are too many. a.mu is held.
func (a *Agent) bury(r *run) {
	a.ended++
	r.ended = a.ended
	a.over[r.experiment.GetName()] = r
	if len(a.over) <= maxOver {
		return
	}
	oldest := r
	for _, other := range a.over {
		if other.ended < oldest.ended {
			oldest = other
		}
	}
	delete(a.over, oldest.experiment.GetName())
}

// watch has the run's next time be waited for. a.mu is held.
func (a *Agent) watch(r *run) {
	r.stopTimer()
	wait, ok := r.next(time.Now())
	if !ok {
		return
	}
	r.timer = time.AfterFunc(min(wait, lookEvery), func() {
		if a.look(r) {
			a.o.Changed(r.service)
		}
	})
}

func (a *Agent) look(r *run) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.runs[r.experiment.GetName()] != r {
		return false
	}
	changed = r.now(time.Now())
	a.watch(r)
	return changed
}

// Policies returns what the experiments of a service come to now.
func (a *Agent) Policies(name string) []*configv1.Policy {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*configv1.Policy
	for _, r := range a.runs {
		if r.service == name && r.divides {
			list = append(list, r.policy)
		}
	}
	slices.SortFunc(list, func(x, y *configv1.Policy) int { return strings.Compare(x.GetName(), y.GetName()) })
	return list
}

// Observer returns who is told of the RPCs of a variant; nil: the group is none.
func (a *Agent) Observer(key telemetry.GroupKey) telemetry.Observer {
	name, ok := experimentOf(key.Policy)
	if !ok || key.Rule != "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.runs[name]; r != nil {
		return r.observer(key.Group)
	}
	return nil
}

// Urgent implements mesh.Counting. Nothing about experiments is urgent.
func (a *Agent) Urgent(func(service string)) {}
