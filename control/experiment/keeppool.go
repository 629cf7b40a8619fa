package experiment

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// poolCounts is what all sidecars' counts are called on a disk.
	poolCounts = "pool"
	// unitsPerPart is how many units a message of a file has at most.
	unitsPerPart = 10_000
)

func (l *leading) path(r *led) string {
	return fileName(l.o.Dir, poolCounts, r.state.GetName(), l.o.Owner)
}

// savable says whether it is time to keep what was counted.
func (r *led) savable(now time.Time) bool {
	return r.saved != r.pool.changes && now.Sub(r.savedAt) >= saveEvery
}

// save keeps what was counted, so that it is not lost by a restart what sidecars counted
// that are gone.
func (l *leading) save() {
	if l.o.Dir == "" {
		return
	}
	for _, f := range l.files() {
		if err := writeFile(f.path, f.head, func(i int) *meshv1.KeptSource { return f.parts[i] }); err != nil {
			l.log.Warn("experiment: what was counted cannot be kept for a restart", slog.String("experiment", f.head.GetName()), slog.Any("error", err))
		}
	}
}

// poolFile is what is to be written.
type poolFile struct {
	path  string
	head  *meshv1.KeptExperiment
	parts []*meshv1.KeptSource
}

// files returns what has changed since the last time. It is written without the lock: a
// disk may take its time.
func (l *leading) files() (list []poolFile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs {
		if r.pool == nil || r.saved == r.pool.changes {
			continue
		}
		r.saved, r.savedAt = r.pool.changes, time.Now()
		f := poolFile{path: l.path(r)}
		for _, part := range r.pool.parts() {
			f.parts = append(f.parts, r.pool.kept(part))
		}
		f.head = &meshv1.KeptExperiment{
			Name: r.state.GetName(), Run: r.state.GetRun(), Document: r.document,
			Sources: uint32(len(f.parts)), Series: r.series.points,
		}
		list = append(list, f)
	}
	return list
}

// load goes on with what was kept of a run. l.mu is held.
func (l *leading) load(r *led) {
	if l.o.Dir == "" {
		return
	}
	fresh := r.pool
	kept := newPool(fresh.measures, fresh.weights, fresh.maxUnits)
	var points []*meshv1.ResultsPoint
	err := readFile(l.path(r), func(h *meshv1.KeptExperiment) error {
		if h.GetName() != r.state.GetName() || h.GetRun() != r.state.GetRun() || h.GetDocument() != r.document {
			return errOtherRun
		}
		points = h.GetSeries()
		return goodPoints(points, fresh)
	}, func(p *meshv1.KeptSource) error {
		return kept.restore(p)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errOtherRun):
	case err != nil:
		l.log.Warn("experiment: what was kept of it cannot be read: what sidecars counted that are gone is lost",
			slog.String("experiment", r.state.GetName()), slog.Any("error", err))
	default:
		r.pool, r.saved = kept, kept.changes
		r.series.restore(points)
	}
}

// goodPoints says what is wrong with points that were kept.
func goodPoints(points []*meshv1.ResultsPoint, p *pool) error {
	for _, point := range points {
		if len(point.GetVariants()) != p.variants {
			return errDamaged
		}
		for _, v := range point.GetVariants() {
			if len(v.GetMeasures()) != len(p.measures) {
				return errDamaged
			}
		}
	}
	return nil
}

// forget removes what was kept of a run. l.mu is held.
func (l *leading) forget(r *led) {
	if l.o.Dir == "" {
		return
	}
	if err := os.Remove(l.path(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("experiment: what was kept of it cannot be removed", slog.String("experiment", r.state.GetName()), slog.Any("error", err))
	}
}

// poolPart is a part of what a source counted.
type poolPart struct {
	source   *source
	from, to int // of its rows
	crossed  bool
}

// parts divides all that was counted into messages.
func (p *pool) parts() (list []poolPart) {
	for _, s := range p.order() {
		if s.isRefused {
			continue
		}
		for from := 0; from < len(s.rows) || from == 0; from += unitsPerPart {
			list = append(list, poolPart{source: s, from: from, to: min(from+unitsPerPart, len(s.rows)), crossed: from == 0})
		}
	}
	return list
}

// kept writes a part.
func (p *pool) kept(part poolPart) *meshv1.KeptSource {
	s, n := part.source, len(p.measures)
	counts := &meshv1.ExperimentCounts{Epoch: s.epoch, Threshold: wireThreshold(s.threshold)}
	for r := part.from; r < part.to; r++ {
		unit := s.rows[r]
		if s.crossed[unit] {
			continue
		}
		u := &meshv1.UnitCounts{Unit: unit, Variant: uint32(p.assignment.Group(unit))}
		for _, c := range s.of(r, n) {
			u.Measures = append(u.Measures, &meshv1.MeasureCounts{Count: c.count, Sum: c.sum})
		}
		counts.Units = append(counts.Units, u)
	}
	if part.crossed {
		for unit := range s.crossed {
			counts.Units = append(counts.Units, &meshv1.UnitCounts{Unit: unit, Crossed: true})
		}
	}
	return &meshv1.KeptSource{Id: s.id, Counts: counts}
}

// restore takes over a part that was kept.
func (p *pool) restore(part *meshv1.KeptSource) error {
	s := p.source(part.GetId(), part.GetCounts().GetEpoch())
	p.heed(s, thresholdOf(part.GetCounts().GetThreshold()))
	for _, u := range part.GetCounts().GetUnits() {
		if err := p.unit(s, u); err != nil {
			return err
		}
	}
	p.changes++
	p.settle(s)
	return nil
}
