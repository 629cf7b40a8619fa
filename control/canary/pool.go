package canary

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/pillion-proxy/pillion/control/observe"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// maxSources bounds the processes whose counts of a step are kept, 4 KiB each. What the
// others say does not count.
const maxSources = 20_000

// maxPooled bounds the RPCs of a version that are counted, so that sums never run over. What
// one process can say at once is much less.
const maxPooled = 1 << 60

// source is a process that reports.
type source struct {
	id      string
	process uint64
}

// pool has what all sidecars have counted in one step of a run. What those have counted
// that are gone stays.
type pool struct {
	run     uint64
	step    uint32
	total   pair
	sources map[source]*account
}

// account is what one process said last.
type account struct {
	pair
	tripped string
}

func newPool(run uint64, step uint32) *pool {
	return &pool{run: run, step: step, sources: map[source]*account{}}
}

// take takes what a process has counted in the step until now. An error leaves the pool as
// it was.
func (p *pool) take(from source, m *meshv1.CanaryCounts) error {
	stable, err := observe.FromProto(m.GetStable())
	if err != nil {
		return fmt.Errorf("of the stable version: %w", err)
	}
	canary, err := observe.FromProto(m.GetCanary())
	if err != nil {
		return fmt.Errorf("of the canary: %w", err)
	}
	before := p.sources[from]
	if before == nil {
		if len(p.sources) >= maxSources {
			return fmt.Errorf("%d processes have reported already", maxSources)
		}
		before = &account{}
	}
	moreStable, err := stable.Since(&before.stable)
	if err != nil {
		return fmt.Errorf("of the stable version: %w", err)
	}
	moreCanary, err := canary.Since(&before.canary)
	if err != nil {
		return fmt.Errorf("of the canary: %w", err)
	}
	for _, sum := range []struct{ total, more *observe.Counts }{{&p.total.stable, &moreStable}, {&p.total.canary, &moreCanary}} {
		if all := max(sum.more.RPCs(), sum.more.Timed()); max(sum.total.RPCs(), sum.total.Timed())+all > maxPooled {
			return fmt.Errorf("%d RPCs more are more than can be counted", all)
		}
	}
	// Sidecars see the same instances ejected: what one sees most of counts.
	moreStable.Ejections, moreCanary.Ejections = stable.Ejections, canary.Ejections
	p.total.stable.Merge(&moreStable)
	p.total.canary.Merge(&moreCanary)
	before.stable, before.canary, before.tripped = stable, canary, m.GetTripped()
	p.sources[from] = before
	return nil
}

// trippedBy returns the guard by which each sidecar has taken its RPCs off the canary that
// has, and how many have sent the canary any.
func (p *pool) trippedBy() (by map[string]string, of int) {
	by = map[string]string{}
	sidecars := map[string]bool{}
	for from, c := range p.sources {
		if c.canary.RPCs() > 0 {
			sidecars[from.id] = true
		}
		if c.tripped != "" {
			by[from.id] = c.tripped
			sidecars[from.id] = true
		}
	}
	return by, len(sidecars)
}

// chance returns how likely it is that at least k of n judges find something of which each
// does at a risk.
func chance(k, n int, risk float64) float64 {
	if k <= 0 {
		return 1
	}
	if k > n {
		return 0
	}
	if float64(n)*risk < 1e-12 {
		return math.Pow(float64(n)*risk, float64(k))
	}
	return distuv.Binomial{N: float64(n), P: risk}.Survival(float64(k) - 1)
}
