package experiment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// ownCounts is what a sidecar's own counts are called on its disk.
const ownCounts = "counts"

var errOtherRun = errors.New("it is of another run")

func (a *Agent) path(r *run) string {
	return fileName(a.o.Dir, ownCounts, r.experiment.GetName(), a.o.Owner)
}

// load has a run go on with what was kept of it. a.mu is held.
func (a *Agent) load(r *run) {
	if a.o.Dir == "" {
		return
	}
	fresh := r.counter
	kept := newCounter(fresh.measures, fresh.variants, int(r.experiment.GetMaxUnits()))
	var epoch uint64
	err := readFile(a.path(r), func(h *meshv1.KeptExperiment) error {
		r.lastWriter = h.GetWriter()
		if h.GetName() != r.experiment.GetName() || h.GetRun() != r.number || h.GetDocument() != r.document {
			return errOtherRun
		}
		return nil
	}, func(p *meshv1.KeptSource) error {
		if epoch == 0 {
			epoch = p.GetCounts().GetEpoch()
		}
		if p.GetId() != "" || p.GetCounts().GetEpoch() != epoch {
			return errDamaged
		}
		kept.lower(thresholdOf(p.GetCounts().GetThreshold()))
		for _, u := range p.GetCounts().GetUnits() {
			if !kept.take(u) {
				return fmt.Errorf("%w: it has a unit that cannot be", errDamaged)
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errOtherRun), err == nil && epoch == 0:
	case err != nil:
		a.o.Logger.Warn("what was counted for an experiment before the restart cannot be read, and is lost",
			"experiment", r.experiment.GetName(), "file", a.path(r), "error", err)
	default:
		r.counter, r.epoch = kept, epoch
		kept.changes.Store(1)
		r.saved = 1
	}
}

// saveAgain saves what has changed, and does so again later.
func (a *Agent) saveAgain() {
	a.save()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.saver.Reset(saveEvery)
	}
}

// save writes what has changed since the last time.
func (a *Agent) save() {
	if a.o.Dir == "" {
		return
	}
	a.saving.Lock()
	defer a.saving.Unlock()
	type job struct {
		run     *run
		counter *counter
		changes uint64
		header  *meshv1.ExperimentCounts
		last    uint64
	}
	var jobs []job
	a.mu.Lock()
	for _, r := range a.runs {
		if changes := r.counter.changes.Load(); changes != r.saved {
			jobs = append(jobs, job{r, r.counter, changes, r.header(), r.lastWriter})
		}
	}
	a.mu.Unlock()
	for _, j := range jobs {
		err := a.write(j.run, j.counter, j.header, j.last)
		a.mu.Lock()
		if err == nil {
			j.run.saved, j.run.lastWriter = j.changes, a.writer
		}
		if a.runs[j.run.experiment.GetName()] != j.run && !a.closed {
			a.forget(j.run) // it ended meanwhile
		}
		a.mu.Unlock()
		if err != nil {
			a.o.Logger.Warn("what was counted for an experiment cannot be kept for a restart",
				"experiment", j.run.experiment.GetName(), "error", err)
		}
	}
}

var errTakenOver = errors.New("another process goes on with it")

func (a *Agent) write(r *run, c *counter, header *meshv1.ExperimentCounts, last uint64) error {
	path := a.path(r)
	// Where a process takes over from this one, what it has counted is not written over.
	if h, err := readHead(path); err == nil && h.GetWriter() != last && h.GetWriter() != a.writer &&
		h.GetRun() == r.number && h.GetDocument() == r.document {
		return fmt.Errorf("%s: %w", path, errTakenOver)
	}
	return writeFile(path, &meshv1.KeptExperiment{
		Name: header.GetName(), Run: r.number, Document: r.document, Writer: a.writer, Sources: uint32(len(c.shards)),
	}, func(i int) *meshv1.KeptSource {
		return &meshv1.KeptSource{Counts: &meshv1.ExperimentCounts{
			Name: header.GetName(), Run: header.GetRun(), Epoch: header.GetEpoch(), Threshold: header.GetThreshold(),
			Units: c.every(i),
		}}
	})
}

// forget removes what was kept of a run. a.mu is held.
func (a *Agent) forget(r *run) {
	path := a.path(r)
	if h, err := readHead(path); err != nil || h.GetRun() != r.number || h.GetDocument() != r.document {
		return
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.o.Logger.Warn("what was counted for an experiment cannot be removed", "file", path, "error", err)
	}
}
