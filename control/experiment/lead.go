package experiment

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/hooks"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/mesh"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// lookAgain is how often an elected sidecar looks whether something is to be done.
	lookAgain = time.Second
	// maxEarly bounds the units that are reported before the store has said what runs.
	maxEarly = 1 << 20
)

// LeadOptions are what an elected sidecar needs.
type LeadOptions struct {
	// ID is the sidecar's name, for the history.
	ID string
	// Known returns the states of a service's experiments that this sidecar obeys, for where
	// the store loses them: see Agent.Known. Nil: it obeys none.
	Known func(service string) []*controlv1.RunState
	// Hooks tells hooks of transitions; nil: nobody is told.
	Hooks *hooks.Teller
	// Dir and Owner are as in [Options]: what all have counted is kept there too.
	Dir, Owner string
	Logger     *slog.Logger
}

// Lead returns what begins to lead the experiments of a service.
func Lead(o LeadOptions) mesh.Lead {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return func(ctx context.Context, service string, store kv.Store, publish func(*meshv1.ReportResponse)) mesh.Leading {
		l := &leading{
			o: o, service: service, store: store, publish: publish, log: o.Logger.With(slog.String("service", service)),
			runs: map[string]*led{},
		}
		l.ledger = ledger.Open(ctx, ledger.Options{
			Store: store, Kind: control.Experiment, Service: service, Known: o.Known, Written: l.tell, Logger: l.log,
		})
		l.ledger.Go(l.run)
		return l
	}
}

// leading leads the experiments of one service. One goroutine decides, and writes the
// store; reports are taken meanwhile.
type leading struct {
	o       LeadOptions
	service string
	store   kv.Store
	publish func(*meshv1.ReportResponse)
	log     *slog.Logger
	ledger  *ledger.Ledger

	mu sync.Mutex
	// known says that the store has said what runs; before, reports are kept as they are.
	known      bool
	early      []earlyCounts
	earlyUnits int
	runs       map[string]*led // by experiment
}

// earlyCounts came before it was known what runs.
type earlyCounts struct {
	from   *meshv1.Hello
	counts *meshv1.ExperimentCounts
}

var _ mesh.Leading = (*leading)(nil)

// Close implements mesh.Leading.
func (l *leading) Close() {
	l.ledger.Close()
}

// Gone implements mesh.Leading: what a sidecar that is gone had counted still counts.
func (l *leading) Gone(*meshv1.Hello) {}

// Evidence implements mesh.Leading: canaries are another's.
func (l *leading) Evidence(string) *meshv1.EvidenceResponse { return nil }

// Take implements mesh.Leading.
func (l *leading) Take(from *meshv1.Hello, report *meshv1.ReportRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.Heard(report.GetHeard())
	for _, counts := range report.GetExperiments() {
		if l.known {
			l.take(from, counts)
		} else if l.earlyUnits += 1 + len(counts.GetUnits()); l.earlyUnits <= maxEarly {
			l.early = append(l.early, earlyCounts{from, counts})
		}
	}
}

// take takes over what one sidecar counted for one experiment. l.mu is held.
func (l *leading) take(from *meshv1.Hello, counts *meshv1.ExperimentCounts) {
	r := l.runs[counts.GetName()]
	if r == nil || r.pool == nil || counts.GetRun() != r.state.GetRun() {
		return
	}
	if err := r.pool.take(from.GetId(), from.GetProcess(), counts); err != nil {
		l.log.Warn("experiment: what a sidecar reports cannot be, and all that it said does not count",
			slog.String("experiment", counts.GetName()), slog.String("sidecar", from.GetId()), slog.Any("error", err))
	}
}

// Results implements mesh.Leading.
func (l *leading) Results(name string) *meshv1.ResultsResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runs[name]
	if r == nil {
		return nil
	}
	r.freshen(time.Now())
	return r.results
}

func (l *leading) run() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	defer l.save()
	for {
		select {
		case <-l.ledger.Context().Done():
			return
		case <-l.ledger.Wake():
		case <-tick.C:
		}
		l.look()
	}
}

// look does what is to be done now.
func (l *leading) look() {
	entries, known := l.ledger.Entries()
	if !known {
		return
	}
	l.settle(entries)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if l.ledger.Context().Err() == nil && l.decide(entries[name]) {
			entries, _ = l.ledger.Entries()
		}
	}
	l.observe()
}

// settle has the runs be those that the states say.
func (l *leading) settle(entries map[string]ledger.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, e := range entries {
		r := l.runs[name]
		switch {
		case e.State == nil:
			delete(l.runs, name) // somebody has removed it
		case !runs(e.State):
			if r != nil && r.pool != nil && r.state.GetRun() == e.State.GetRun() {
				r.over(e.State)
				l.forget(r)
			}
		case r == nil || r.pool == nil || r.state.GetRun() != e.State.GetRun() || r.state.GetNumber() > e.State.GetNumber():
			if now := l.begin(e.State); now != nil {
				l.runs[name] = now
			} else {
				delete(l.runs, name)
			}
		default:
			r.state = e.State
		}
	}
	for name := range l.runs {
		if _, ok := entries[name]; !ok {
			delete(l.runs, name)
		}
	}
	l.known = true
	for _, e := range l.early {
		l.take(e.from, e.counts)
	}
	l.early = nil
}

// begin begins to pool a run; nil: its document is wrong. l.mu is held.
func (l *leading) begin(state *controlv1.RunState) *led {
	r, err := newLed(state)
	if err != nil {
		l.log.Error("experiment: its document is wrong, and nothing is compared", slog.String("experiment", state.GetName()), slog.Any("error", err))
		return nil
	}
	l.load(r)
	return r
}

// observe adds points to series, has all sidecars know thresholds and whose counts there
// are, and keeps what was counted.
func (l *leading) observe() {
	now := time.Now()
	said := &meshv1.ReportResponse{Thresholds: map[string]uint64{}, Sources: map[string]*meshv1.Sources{}}
	save := false
	l.mu.Lock()
	for name, r := range l.runs {
		if r.pool == nil {
			continue
		}
		if now.Sub(r.begun) >= returnFor {
			r.settled()
		}
		r.observe(now)
		if t := r.pool.threshold; t != r.published {
			r.published = t
			said.Thresholds[thresholdKey(name, r.state.GetRun())] = wireThreshold(t)
		}
		if sources := r.tell(now); sources != nil {
			said.Sources[thresholdKey(name, r.state.GetRun())] = sources
		}
		save = save || r.savable(now)
	}
	l.mu.Unlock()
	if len(said.Thresholds) > 0 || len(said.Sources) > 0 {
		l.publish(said)
	}
	if save {
		l.save()
	}
}
