package canary

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Options are what an Agent needs. All of it may be left out.
type Options struct {
	// Changed is told of services whose Policies are others for a reason of the agent's own:
	// it took RPCs off a canary, or obeyed. It may call the agent.
	Changed func(service string)
	// Events returns how often instances of a service's subset were ejected, or circuits to
	// them opened, since the process began, and how many instances there are; false: it is
	// not known. It must not call the agent.
	Events func(service, subset string) (ejections uint64, instances int, ok bool)
	// Metrics is told how canaries stand here.
	Metrics *Metrics
	Logger  *slog.Logger
}

// Agent is a sidecar's part in canaries. It needs nobody: with the store and the elected
// sidecar away it goes on with what it knew, and its own judge goes on. Its methods may be
// called from many goroutines at once. It is made by NewAgent and ended by Close.
type Agent struct {
	o Options
	// pending is what the judge has to look at: nothing, something, something that fails.
	pending atomic.Uint32
	wake    chan struct{}
	stop    chan struct{}
	stopped sync.WaitGroup

	mu       sync.Mutex
	services map[string]map[string]*run // by service and canary
	groups   map[telemetry.GroupKey]*group
	urgent   []func(service string)
}

// NewAgent returns an Agent that knows of no canary.
func NewAgent(o Options) *Agent {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		o: o, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		services: map[string]map[string]*run{}, groups: map[telemetry.GroupKey]*group{},
	}
	a.stopped.Go(a.judge)
	return a
}

// Close ends the agent's judge.
func (a *Agent) Close() {
	close(a.stop)
	a.stopped.Wait()
}

// States takes all states of a service's canaries over from the store. What was obeyed
// already, and is newer, still holds.
func (a *Agent) States(service string, states []*controlv1.RunState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]bool{}
	for _, s := range states {
		if s.GetKind() == kind && s.GetService() == service {
			seen[s.GetName()] = true
			if ledger.Check(s) != nil {
				continue // as with one that cannot be read, what held before it stays
			}
			r := a.run(service, s.GetName())
			if control.After(r.stored.GetNumber(), s.GetNumber()) {
				r.setBack(s)
			}
			r.stored = s
			a.settle(r)
		}
	}
	for name, r := range a.services[service] {
		if seen[name] || r.stored == nil {
			continue
		}
		// Somebody has removed the state: what was obeyed before it counts no more either.
		if r.told != nil && !control.After(r.told.GetNumber(), r.stored.GetNumber()) {
			r.told = nil
		}
		r.stored = nil
		a.settle(r)
	}
	a.forget(service)
}

// Known returns the states that a service's canaries are in here.
func (a *Agent) Known(service string) (states []*controlv1.RunState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.services[service] {
		if r.state != nil {
			states = append(states, r.state)
		}
	}
	return states
}

// Obey implements mesh.Counting: it takes over what the elected sidecar has decided.
func (a *Agent) Obey(service string, states []*controlv1.RunState, _ map[string]uint64) {
	a.mu.Lock()
	changed := false
	for _, s := range states {
		if s.GetKind() != kind || s.GetService() != service || s.GetName() == "" || ledger.Check(s) != nil {
			continue
		}
		r := a.run(service, s.GetName())
		if newer(s, r.told) {
			r.told = s
			changed = a.settle(r) || changed
		}
	}
	a.forget(service)
	a.mu.Unlock()
	if changed {
		a.changed(service)
	}
}

func (a *Agent) changed(service string) {
	if a.o.Changed != nil {
		a.o.Changed(service)
	}
}

// newer says whether a state holds rather than another. Of two with one number, which two
// sidecars have made that were elected one after the other, the one without RPCs for the
// canary does: it was decided without the store.
func newer(s, than *controlv1.RunState) bool {
	if s == nil || than == nil {
		return s != nil
	}
	if s.GetNumber() != than.GetNumber() {
		return control.After(s.GetNumber(), than.GetNumber())
	}
	return over(s) && !over(than)
}

// over says that a run has ended with no RPCs for the canary.
func over(s *controlv1.RunState) bool {
	return s.GetPhase() == controlv1.Phase_PHASE_ROLLED_BACK || s.GetPhase() == controlv1.Phase_PHASE_ABORTED
}

// run returns what is known of a canary. a.mu is held.
func (a *Agent) run(service, name string) *run {
	runs := a.services[service]
	if runs == nil {
		runs = map[string]*run{}
		a.services[service] = runs
	}
	r := runs[name]
	if r == nil {
		r = &run{service: service, name: name}
		runs[name] = r
	}
	return r
}

// forget drops canaries of which nothing is known any more. a.mu is held.
func (a *Agent) forget(service string) {
	for name, r := range a.services[service] {
		if r.stored == nil && r.told == nil {
			delete(a.services[service], name)
			a.o.Metrics.drop(service, name)
		}
	}
	if len(a.services[service]) == 0 {
		delete(a.services, service)
	}
}

// settle has the newest state of a canary hold, and says whether that changes anything.
// a.mu is held.
func (a *Agent) settle(r *run) bool {
	s := r.stored
	if newer(r.told, s) {
		s = r.told
	}
	if s == r.state || s != nil && r.state != nil && s.GetNumber() == r.state.GetNumber() && s.GetPhase() == r.state.GetPhase() {
		return false
	}
	doc := r.doc
	if s != nil && s.GetPhase() != controlv1.Phase_PHASE_UNSPECIFIED {
		var err error
		if doc, err = Document(s); err != nil {
			if r.refused != s.GetNumber() {
				r.refused = s.GetNumber()
				a.o.Logger.Error("canary: a state cannot be obeyed, what held before it stays",
					slog.String("canary", r.name), slog.String("service", r.service), slog.Uint64("number", s.GetNumber()), slog.Any("error", err))
			}
			return false
		}
	}
	r.follow(s, doc)
	for _, name := range []string{StableGroup, CanaryGroup} {
		a.groupOf(telemetry.GroupKey{Policy: PolicyName(r.name), Group: name}).count(r)
	}
	a.gauge(r)
	return true
}

// gauge tells the metrics where a canary stands. a.mu is held.
func (a *Agent) gauge(r *run) {
	if weight, ok := r.weight(); ok {
		a.o.Metrics.hold(r.service, r.name, r.state.GetPhase(), weight)
	} else {
		a.o.Metrics.drop(r.service, r.name)
	}
}

// Policies returns the split policies of a service's canaries as they are to hold now.
func (a *Agent) Policies(service string) []*configv1.Policy {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []held
	for _, r := range a.services[service] {
		if weight, ok := r.weight(); ok {
			list = append(list, held{r.state, r.doc, weight})
		}
	}
	return policiesOf(list)
}

// Observer returns who counts the RPCs of a group of a canary's split policy: the same
// each time, so that counting goes on when policies are compiled anew. Nil: the group is
// none of a canary's.
func (a *Agent) Observer(key telemetry.GroupKey) telemetry.Observer {
	if !strings.HasPrefix(key.Policy, configyaml.GeneratedOfCanaries) || key.Rule != "" ||
		!slices.Contains([]string{StableGroup, CanaryGroup}, key.Group) {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.groupOf(key)
}

// groupOf returns the observer of a group. a.mu is held.
func (a *Agent) groupOf(key telemetry.GroupKey) *group {
	g := a.groups[key]
	if g == nil {
		if len(a.groups) >= maxGroups {
			a.forgetGroups(key.Policy)
		}
		g = &group{agent: a, canary: key.Group == CanaryGroup}
		a.groups[key] = g
	}
	return g
}

// maxGroups is how many groups there may be before those of canaries that are gone are
// forgotten. Until then they stay: policies that are the same as before keep theirs.
const maxGroups = 256

// forgetGroups forgets the groups of canaries that are gone, but for one. a.mu is held.
func (a *Agent) forgetGroups(but string) {
	there := map[string]bool{but: true}
	for _, runs := range a.services {
		for name := range runs {
			there[PolicyName(name)] = true
		}
	}
	maps.DeleteFunc(a.groups, func(key telemetry.GroupKey, _ *group) bool { return !there[key.Policy] })
}

// now is the time; a name for it, as tests have their own by synctest.
func now() time.Time { return time.Now() }
