package experiment

import (
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/control"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// collectEvery is how often an experiment's counts are reported: nobody decides within
	// seconds by them, and a unit that had several RPCs meanwhile is reported once.
	collectEvery = 2 * time.Second
	// collectBytes bounds about how much of an experiment is reported at a time; what is
	// beyond it follows with the next report.
	collectBytes = 256 << 10
)

// Collect implements mesh.Counting.
func (a *Agent) Collect(service string, report *meshv1.ReportRequest, all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if s := a.services[service]; s != nil && all {
		for name, state := range s.newest() {
			report.Heard = append(report.Heard, &meshv1.Heard{
				Kind: string(control.Experiment), Name: name, Number: state.GetNumber(), Run: state.GetRun(), Since: state.GetSince(),
			})
		}
	}
	names := make([]string, 0, len(a.runs))
	for name, r := range a.runs {
		if r.service == service {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, strings.Compare)
	now := time.Now()
	for _, name := range names {
		if counts := a.runs[name].collect(now, all); counts != nil {
			report.Experiments = append(report.Experiments, counts)
		}
	}
}

// collect returns what is to be reported now; nil: nothing.
func (r *run) collect(now time.Time, all bool) *meshv1.ExperimentCounts {
	if all {
		r.counter.touchAll()
	}
	changes := r.counter.changes.Load()
	if !all && !r.backlog && (changes == r.collected || now.Sub(r.collectedAt) < collectEvery) {
		return nil
	}
	r.collected, r.collectedAt = changes, now
	counts := r.header()
	if all {
		counts.Heard = r.heard
	}
	room := max(collectBytes/unitBytes(len(r.counter.measures)), 1)
	counts.Units, r.backlog = r.counter.drain(room)
	return counts
}

// header says which run's counts these are.
func (r *run) header() *meshv1.ExperimentCounts {
	return &meshv1.ExperimentCounts{
		Name: r.experiment.GetName(), Run: r.number, Epoch: r.epoch,
		Threshold: wireThreshold(r.counter.threshold.Load()),
	}
}

// unitBytes is about how long a unit is in a message.
func unitBytes(measures int) int { return 16 + 16*measures }

// touchAll has all units be reported once more.
func (c *counter) touchAll() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.prune(s)
		for r := range s.rows {
			s.touch(int32(r))
		}
		s.mu.Unlock()
	}
}

// drain returns units that have something to report, and whether there are more.
func (c *counter) drain(room int) (list []*meshv1.UnitCounts, more bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.prune(s)
		n := min(len(s.changed), room-len(list))
		for _, r := range s.changed[:n] {
			s.rows[r].changed = false
			list = append(list, c.unit(s, r))
		}
		s.changed = slices.Delete(s.changed, 0, n)
		more = more || len(s.changed) > 0
		s.mu.Unlock()
	}
	return list, more
}

// every returns all units of a shard.
func (c *counter) every(shard int) []*meshv1.UnitCounts {
	s := &c.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	c.prune(s)
	list := make([]*meshv1.UnitCounts, 0, len(s.rows))
	for r := range s.rows {
		list = append(list, c.unit(s, int32(r)))
	}
	return list
}

// unit writes a row. s.mu is held.
func (c *counter) unit(s *shard, r int32) *meshv1.UnitCounts {
	cells := s.of(r, len(c.measures))
	u := &meshv1.UnitCounts{Unit: s.rows[r].unit, Variant: uint32(s.rows[r].variant), Crossed: s.rows[r].crossed}
	if u.Crossed {
		return u
	}
	values := make([]meshv1.MeasureCounts, len(cells))
	u.Measures = make([]*meshv1.MeasureCounts, len(cells))
	for i, cell := range cells {
		values[i].Count, values[i].Sum = cell.count, cell.sum
		u.Measures[i] = &values[i]
	}
	return u
}

// take takes a row over as it was written; false: it cannot be one. It is for a counter
// that nobody else uses yet.
func (c *counter) take(u *meshv1.UnitCounts) bool {
	cells, ok := readUnit(u, c.measures, c.variants)
	if !ok {
		return false
	}
	mixed := mix(u.GetUnit())
	s := c.shard(mixed)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := c.row(s, u.GetUnit(), mixed, uint8(u.GetVariant()))
	if !ok {
		return true // it is not kept, but good
	}
	if u.GetCrossed() {
		if !s.rows[r].crossed {
			c.cross(s, r)
		}
		return true
	}
	copy(s.of(r, len(c.measures)), cells)
	return true
}

// readUnit reads what somebody says of a unit, checked: false: it cannot be.
func readUnit(u *meshv1.UnitCounts, measures []measure, variants int) ([]cell, bool) {
	if u.GetUnit() == 0 || uint64(u.GetVariant()) >= uint64(variants) {
		return nil, false
	}
	if u.GetCrossed() {
		return nil, len(u.GetMeasures()) == 0
	}
	if len(u.GetMeasures()) != len(measures) {
		return nil, false
	}
	cells := make([]cell, len(measures))
	for i, m := range u.GetMeasures() {
		cells[i] = cell{m.GetCount(), m.GetSum()}
		if !measures[i].good(cells[i]) {
			return nil, false
		}
	}
	return cells, true
}
