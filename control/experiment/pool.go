package experiment

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

const (
	// maxPooled bounds the units that are kept of all sidecars together, a unit that two of
	// them have seen twice; where an experiment keeps more on each sidecar, it is four
	// times as many.
	maxPooled = 1 << 20
	// A sidecar's threshold holds for all once it has shown this part of the units that it
	// may keep: it cannot say that it has too many when it has few.
	fullPart = 16
	// maxEpochs bounds how often a process may begin to count a run anew: it does so when a
	// state is deleted from the store and comes back.
	maxEpochs = 8
)

// pool adds up what all sidecars counted in a run. It trusts none of them further than it
// must: what one says is checked, bounded, and taken back as a whole where it cannot be.
// It is not for use from several goroutines at once.
type pool struct {
	measures   []measure
	weights    []int
	variants   int
	maxUnits   int
	maxPooled  int
	assignment policy.Assignment

	threshold uint64
	sources   map[uint64]*source // by epoch, which nobody else can guess
	speakers  map[speaker]bool
	begun     map[uint64]int // how many epochs a process has spoken of
	pooled    int            // rows of all sources
	claims    claims
	changes   uint64
}

// speaker is a process that speaks of an epoch.
type speaker struct{ process, epoch uint64 }

// source is what one sidecar counted since it began. A process that goes on with what
// the one before had counted goes on with the same source.
type source struct {
	id        string // for people: nobody has proven it
	epoch     uint64
	mark      uint64 // what others know it by
	threshold uint64 // that it has said
	index     map[uint64]int32
	rows      []uint64        // units
	cells     []cell          // of each row in turn, one for each measure
	crossed   map[uint64]bool // units that it has seen elsewhere than their hash says
	isRefused bool            // it said what cannot be, and counts for nothing any more
}

var (
	errTooMany    = errors.New("it speaks of more units than it may keep")
	errImpossible = errors.New("it says of a unit what cannot be")
	errEpochs     = errors.New("it has begun too often to count the same run")
)

func newPool(measures []measure, weights []int, maxUnits int) *pool {
	return &pool{
		measures: measures, weights: weights, variants: len(weights), maxUnits: maxUnits, maxPooled: max(maxPooled, 4*maxUnits),
		assignment: policy.NewAssignment(weights), threshold: everything,
		sources: map[uint64]*source{}, speakers: map[speaker]bool{}, begun: map[uint64]int{},
	}
}

// take takes over what the process of a sidecar says. An error says why it counts for
// nothing from now on, and is returned once.
func (p *pool) take(id string, process uint64, counts *meshv1.ExperimentCounts) error {
	epoch := counts.GetEpoch()
	if who := (speaker{process, epoch}); !p.speakers[who] {
		switch n := p.begun[process]; {
		case n > maxEpochs:
			return nil
		case n == maxEpochs:
			p.begun[process]++
			return errEpochs
		}
		p.begun[process]++
		p.speakers[who] = true
	}
	p.claims.hear(process, counts.GetHeard())
	s := p.source(id, epoch)
	if s.isRefused {
		return nil
	}
	p.heed(s, thresholdOf(counts.GetThreshold()))
	for _, u := range counts.GetUnits() {
		if err := p.unit(s, u); err != nil {
			p.refuse(s)
			return err
		}
	}
	p.changes++
	p.settle(s)
	return nil
}

// source returns what is known of an epoch, which may be nothing yet.
func (p *pool) source(id string, epoch uint64) *source {
	s := p.sources[epoch]
	if s == nil {
		s = &source{id: id, epoch: epoch, mark: markOf(epoch), threshold: everything, index: map[uint64]int32{}}
		p.sources[epoch] = s
	}
	return s
}

// unit takes over what a sidecar says of one unit.
func (p *pool) unit(s *source, u *meshv1.UnitCounts) error {
	cells, ok := readUnit(u, p.measures, p.variants)
	if !ok {
		return fmt.Errorf("%w: %d in variant %d", errImpossible, u.GetUnit(), u.GetVariant())
	}
	if mix(u.GetUnit()) >= min(p.threshold, s.threshold) {
		return nil
	}
	if u.GetCrossed() || p.assignment.Group(u.GetUnit()) != int(u.GetVariant()) {
		return p.cross(s, u.GetUnit())
	}
	r, known := s.index[u.GetUnit()]
	if !known {
		if len(s.rows)+len(s.crossed) >= p.maxUnits {
			return errTooMany
		}
		s.index[u.GetUnit()] = int32(len(s.rows))
		s.rows = append(s.rows, u.GetUnit())
		s.cells = append(s.cells, cells...)
		p.pooled++
		return nil
	}
	// Counts only grow: where they are less, it is a process that was replaced.
	if have := s.of(int(r), len(p.measures)); counted(cells) >= counted(have) {
		copy(have, cells)
	}
	return nil
}

// cross notes that a sidecar has a unit elsewhere than its hash says. What it counted of
// that is left out; what others say of the unit is not touched by it.
func (p *pool) cross(s *source, unit uint64) error {
	if s.crossed[unit] {
		return nil
	}
	if len(s.rows)+len(s.crossed) >= p.maxUnits {
		return errTooMany
	}
	if s.crossed == nil {
		s.crossed = map[uint64]bool{}
	}
	s.crossed[unit] = true
	if r, ok := s.index[unit]; ok {
		clear(s.of(int(r), len(p.measures)))
	}
	p.pooled++
	return nil
}

func counted(cells []cell) (n uint64) {
	for _, c := range cells {
		n += c.count
	}
	return n
}

func (s *source) of(r, measures int) []cell { return s.cells[r*measures : (r+1)*measures] }

// refuse takes back all that a sidecar said, and has it say nothing more.
func (p *pool) refuse(s *source) {
	p.pooled -= len(s.rows) + len(s.crossed)
	*s = source{id: s.id, epoch: s.epoch, mark: s.mark, threshold: everything, isRefused: true}
	p.changes++
}

// settle has the threshold be one at which all that is kept has room, here and on every
// sidecar.
func (p *pool) settle(s *source) {
	if s.threshold < p.threshold && len(s.rows) >= p.maxUnits/fullPart {
		p.lower(s.threshold)
	}
	p.lower(p.median())
	for p.pooled > p.maxPooled {
		p.lower(p.threshold / 2)
	}
}

// median is the threshold that half of the sidecars are at, or below. Whoever is elected
// anew learns by it what the one before had all come to.
func (p *pool) median() uint64 {
	low := false
	for _, s := range p.sources {
		low = low || s.threshold < p.threshold
	}
	if !low {
		return p.threshold
	}
	list := make([]uint64, 0, len(p.sources))
	for _, s := range p.sources {
		if !s.isRefused {
			list = append(list, s.threshold)
		}
	}
	if len(list) == 0 {
		return p.threshold
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// lower forgets units above a threshold.
func (p *pool) lower(t uint64) {
	if t >= p.threshold {
		return
	}
	p.threshold = t
	for _, s := range p.sources {
		p.prune(s, t)
	}
	p.changes++
}

// prune forgets units of one sidecar above a threshold.
func (p *pool) prune(s *source, t uint64) {
	n, kept := len(p.measures), 0
	for r, unit := range s.rows {
		if mix(unit) >= t {
			delete(s.index, unit)
			p.pooled--
			continue
		}
		s.rows[kept] = unit
		copy(s.of(kept, n), s.of(r, n))
		s.index[unit] = int32(kept)
		kept++
	}
	s.rows, s.cells = slices.Clip(s.rows[:kept]), slices.Clip(s.cells[:kept*n])
	for unit := range s.crossed {
		if mix(unit) >= t {
			delete(s.crossed, unit)
			p.pooled--
		}
	}
}

// heed takes over the threshold that a sidecar is at. What it has forgotten is of no more
// use: it would miss what comes of it.
func (p *pool) heed(s *source, t uint64) {
	if t < s.threshold {
		s.threshold = t
		p.prune(s, t)
	}
}

// counts says whether it has counted anything.
func (s *source) counts() bool { return len(s.rows)+len(s.crossed) > 0 }

// sidecars is how many sidecars have counted something.
func (p *pool) sidecars() int {
	ids := map[string]bool{}
	for _, s := range p.sources {
		if !s.isRefused && s.counts() {
			ids[s.id] = true
		}
	}
	return len(ids)
}

// units adds up what all sidecars say of each unit: the values of each measure, by
// variant, and how many units were seen elsewhere than their hash says.
func (p *pool) units() (values [][][]float64, sizes []uint64, crossed uint64) {
	n := len(p.measures)
	index := make(map[uint64]int32)
	var list []uint64
	var totals []cell
	astray := map[uint64]bool{}
	for _, s := range p.order() {
		for r, unit := range s.rows {
			if s.crossed[unit] {
				continue
			}
			at, ok := index[unit]
			if !ok {
				at = int32(len(list))
				index[unit] = at
				list = append(list, unit)
				totals = append(totals, s.of(r, n)...)
				continue
			}
			for i, c := range s.of(r, n) {
				totals[int(at)*n+i].count += c.count
				totals[int(at)*n+i].sum += c.sum
			}
		}
		for unit := range s.crossed {
			astray[unit] = true
		}
	}
	values, sizes = make([][][]float64, p.variants), make([]uint64, p.variants)
	for v := range values {
		values[v] = make([][]float64, n)
	}
	for at, unit := range list {
		v := p.assignment.Group(unit)
		sizes[v]++
		for i := range n {
			if x, ok := p.measures[i].unit(totals[at*n+i]); ok && !math.IsInf(x, 0) {
				values[v][i] = append(values[v][i], x)
			}
		}
	}
	return values, sizes, uint64(len(astray))
}

// order has sums be the same however often they are added up.
func (p *pool) order() []*source {
	return slices.SortedFunc(maps.Values(p.sources), func(a, b *source) int { return cmp.Compare(a.epoch, b.epoch) })
}
