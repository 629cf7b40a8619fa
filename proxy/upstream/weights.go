package upstream

import (
	"slices"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// weigh returns the weights by which some instances are picked now: those of the
// registry, unless instances report their load or are starting slowly. Cluster.mu
// is held.
func weigh(p *Policy, instances []*Instance, registered []uint32, now time.Time) []uint32 {
	slow := p.startsSlowly()
	byReports := p.Balance.Policy == balance.WeightedRoundRobin
	if !slow && !byReports {
		return registered
	}
	changed := false
	weights := make([]float64, len(instances))
	if byReports {
		for i, in := range instances {
			weights[i] = in.reported(now, &p.Reports)
		}
		changed = balance.FillReported(weights)
	}
	if !changed {
		for i, w := range registered {
			weights[i] = float64(w)
		}
	}
	if slow {
		for i, in := range instances {
			if share := in.warming.share(p.SlowStart, now); share < 1 {
				weights[i] *= share
				changed = true
			}
		}
	}
	if !changed {
		return registered
	}
	return balance.Scale(weights)
}

// reweigh has instances be picked by the weights that they have now.
func (t *tier) reweigh(p *Policy, now time.Time) {
	was := t.choosing.Load()
	if was == nil {
		return
	}
	if weights := weigh(p, t.instances, t.weights, now); !slices.Equal(weights, was.weights) {
		t.choosing.Store(&choosing{was.picker.Reweighted(weights), weights})
	}
}

// startsSlowly says whether there is a slow start: what is hashed goes where it
// belongs, and the first goes first.
func (p *Policy) startsSlowly() bool {
	return p.SlowStart != nil && !p.Balance.Policy.Hashes() && p.Balance.Policy != balance.PickFirst
}
