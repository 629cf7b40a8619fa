package experiment

import (
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/ledger"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// freshFor is how long results are not computed again, and restPart how many times as
	// long as it took.
	freshFor = time.Second
	restPart = 20
)

// led is a run that is led here. It is under leading.mu.
type led struct {
	state      *controlv1.RunState
	experiment *configv1.Experiment
	document   uint64 // its hash
	pool       *pool  // nil: the run is over
	series     series

	results  *meshv1.ResultsResponse // never changed once it is there
	computed uint64                  // pool.changes at that time
	at       time.Time
	took     time.Duration

	published uint64 // the threshold that all were told
	saved     uint64 // pool.changes when it was kept
	savedAt   time.Time

	told   *meshv1.Sources // what others were told
	toldAt time.Time
	// begun is when this sidecar began to lead the run; returned: that is returnFor ago.
	begun    time.Time
	returned bool

	besideLooks int       // how often it was looked what runs beside it
	besideNext  time.Time // when that is to be looked next
}

func newLed(state *controlv1.RunState) (*led, error) {
	e, err := decode(state.GetDocument())
	if err != nil {
		return nil, err
	}
	weights := make([]int, 0, len(e.GetVariants()))
	for _, v := range e.GetVariants() {
		weights = append(weights, int(v.GetWeight()))
	}
	return &led{
		state: state, experiment: e, document: xxhash.Sum64(state.GetDocument()),
		pool: newPool(compileMeasures(e), weights, int(e.GetMaxUnits())), published: everything, begun: time.Now(),
	}, nil
}

// freshen computes the results again, unless that was just done, or nothing has changed.
func (r *led) freshen(now time.Time) {
	if r.pool == nil || r.results != nil && (r.computed == r.pool.changes || now.Sub(r.at) < max(freshFor, restPart*r.took)) {
		return
	}
	r.compute(now)
}

func (r *led) compute(now time.Time) {
	r.computed, r.at = r.pool.changes, now
	values, sizes, crossed := r.pool.units()
	results := &meshv1.ResultsResponse{
		State: r.state, Time: timestamppb.New(now), Sampled: sampled(r.pool.threshold),
		Sidecars: uint32(r.pool.sidecars()), Crossed: crossed, Series: r.series.points,
	}
	if r.returned {
		results.LostSidecars, results.LostUnits = r.pool.lost()
	}
	for i, v := range r.experiment.GetVariants() {
		results.Variants = append(results.Variants, &meshv1.VariantResults{Name: v.GetName(), Units: sizes[i]})
	}
	for m := range r.pool.measures {
		of := make([][]float64, len(values))
		for v := range values {
			of[v] = values[v][m]
		}
		for v, result := range measureResults(&r.pool.measures[m], of) {
			results.Variants[v].Measures = append(results.Variants[v].Measures, result)
		}
	}
	r.results, r.took = results, time.Since(now)
}

// observe adds a point to the series, if it is time.
func (r *led) observe(now time.Time) {
	if r.series.due(now) > 0 || len(r.series.points) > 0 && r.computed == r.pool.changes || now.Sub(r.at) < restPart*r.took {
		return
	}
	r.compute(now)
	r.series.add(now, r.results.GetVariants())
	with := proto.CloneOf(r.results) // somebody may have the old ones
	with.Series = r.series.points
	r.results = with
}

// settled has it be said what is lost.
func (r *led) settled() {
	if r.pool != nil && !r.returned {
		r.returned = true
		r.pool.changes++
	}
}

// over ends the run: what it has come to stays.
func (r *led) over(state *controlv1.RunState) {
	r.final(state)
	r.pool = nil
}

// final returns what the run has come to, with another state.
func (r *led) final(state *controlv1.RunState) *meshv1.ResultsResponse {
	r.settled()
	if r.pool != nil && (r.results == nil || r.computed != r.pool.changes) {
		r.compute(time.Now())
	}
	results := proto.CloneOf(r.results)
	results.State = state
	r.state, r.results = state, results
	return results
}

// written returns what is written into the history when a run ends: results without the
// state, which is beside them, and with as many points as there is room for.
func (r *led) written() ([]byte, error) {
	results := proto.CloneOf(r.final(r.state))
	results.State = nil
	for proto.Size(results) > ledger.MaxBytes && len(results.Series) > 1 {
		results.Series = thinned(results.Series)
	}
	return proto.Marshal(results)
}
