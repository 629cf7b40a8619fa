package experiment

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

var errOtherDocument = errors.New("it is the document of another experiment")

// run is a run of an experiment on this sidecar. But for its counter it is under the
// agent's lock.
type run struct {
	experiment *configv1.Experiment
	service    string
	number     uint64
	document   uint64 // the document's hash
	policy     *configv1.Policy
	counter    *counter
	epoch      uint64
	observers  map[string]*observer

	ended   uint64 // the how manieth it is of those that are over
	divides bool   // its time has come and is not over
	timer   *time.Timer

	// collected is counter.changes at the last report, and when that was.
	collected   uint64
	collectedAt time.Time
	backlog     bool            // the last report had not room for all
	heard       *meshv1.Sources // whose counts the elected sidecar has
	saved       uint64
	lastWriter  uint64 // of the file, as far as this process knows; 0: there was none
}

func newRun(e *configv1.Experiment, number, document uint64) *run {
	return &run{
		experiment: e, service: e.GetService(), number: number, document: document, policy: Policy(e),
		counter:   newCounter(compileMeasures(e), len(e.GetVariants()), int(e.GetMaxUnits())),
		epoch:     rand.Uint64(),
		observers: map[string]*observer{},
	}
}

// key is what thresholds and sources are published under.
func (r *run) key() string { return thresholdKey(r.experiment.GetName(), r.number) }

func thresholdKey(experiment string, run uint64) string {
	return experiment + "/" + strconv.FormatUint(run, 10)
}

// now takes note of the time, and says whether the policy came or went by it.
func (r *run) now(t time.Time) (changed bool) {
	before := r.divides
	start, end := r.experiment.GetStart(), r.experiment.GetEnd()
	r.divides = (start == nil || !t.Before(start.AsTime())) && (end == nil || t.Before(end.AsTime()))
	return r.divides != before
}

// next returns how long it is until the policy comes or goes; false: it does not.
func (r *run) next(t time.Time) (time.Duration, bool) {
	if start := r.experiment.GetStart(); start != nil && t.Before(start.AsTime()) {
		return start.AsTime().Sub(t), true
	}
	if end := r.experiment.GetEnd(); end != nil && t.Before(end.AsTime()) {
		return end.AsTime().Sub(t), true
	}
	return 0, false
}

func (r *run) stopTimer() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// observer returns who counts the RPCs of a variant; nil: there is none of the name.
func (r *run) observer(variant string) telemetry.Observer {
	if o := r.observers[variant]; o != nil {
		return o
	}
	n := variantNumber(r.experiment, variant)
	if n < 0 {
		return nil
	}
	o := &observer{variant: uint8(n)}
	o.counter.Store(r.counter)
	r.observers[variant] = o
	return o
}

// takeObservers takes over the observers of an earlier run, which may be nil, if its policy
// is the same: whoever compiles policies may not have noticed that it was gone.
func (r *run) takeObservers(before *run) {
	if before == nil || !proto.Equal(before.policy, r.policy) {
		return
	}
	r.observers = before.observers
	for _, o := range r.observers {
		o.counter.Store(r.counter)
	}
}

// detach has RPCs that are still under way count no more.
func (r *run) detach() {
	for _, o := range r.observers {
		o.counter.Store(nil)
	}
	r.counter = nil
}

// observer counts the RPCs of a variant. Policies that are the same as before stay the
// same object, and keep their observers, also from one run to the next: see
// run.takeObservers.
type observer struct {
	variant uint8
	counter atomic.Pointer[counter] // nil: the run is over
}

// Ended implements telemetry.Observer.
func (o *observer) Ended(outcome *telemetry.Outcome) {
	if c := o.counter.Load(); c != nil {
		c.count(o.variant, outcome)
	}
}
