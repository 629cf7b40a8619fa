package upstream

import (
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// glance is how often somebody looks how well instances are, where that matters.
const glance = 100 * time.Millisecond

// refresher has what RPCs are picked by be looked at again and again, as long as
// there are RPCs: what nobody uses costs nothing.
type refresher struct {
	state atomic.Uint32
	timer *time.Timer // calls Cluster.tick
}

// The states of a refresher. An RPC makes it refreshBusy; the timer makes that
// refreshIdle, and that refreshAsleep.
const (
	refreshAsleep uint32 = iota // the timer does not run
	refreshIdle                 // it runs, and there was no RPC since it last fired
	refreshBusy                 // it runs, and there was one
)

// period is how often a policy has things looked at; 0: never.
func (p *Policy) period() time.Duration {
	if p.PanicPercent > 0 || p.Locality != nil || p.startsSlowly() || p.bounded() ||
		p.Balance.Policy == balance.WeightedRoundRobin { // whose reports are void once an instance was gone
		return glance
	}
	return 0
}

// bounded says whether there are bounded loads.
func (p *Policy) bounded() bool { return p.Balance.Policy.Hashes() && p.Balance.BoundedLoad > 0 }

// touch notes that there is an RPC.
func (c *Cluster) touch(t *table) {
	if t.period == 0 || c.refresh.state.Load() == refreshBusy {
		return
	}
	if c.refresh.state.Swap(refreshBusy) != refreshAsleep {
		return
	}
	// What was seen last may be long ago.
	t.views(func(v *view) {
		if v.inUse.Load() {
			v.look()
		}
	})
	c.refresh.timer.Reset(0)
}

// tick looks at the instances, and again after a while if there are RPCs.
func (c *Cluster) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table.Load()
	if c.closed || t.period == 0 {
		c.refresh.state.Store(refreshAsleep)
		return
	}
	c.look(t, time.Now())
	if c.refresh.state.CompareAndSwap(refreshIdle, refreshAsleep) {
		return
	}
	c.refresh.state.Store(refreshIdle)
	c.refresh.timer.Reset(t.period)
}

// look takes over what has changed of the instances. c.mu is held.
func (c *Cluster) look(t *table, now time.Time) {
	for _, in := range t.instances {
		if in.warming.look(in.Usable(), now) {
			if m := in.measures.Load(); m != nil {
				m.reports.Forget()
			}
		}
	}
	weights := !now.Before(c.weighAt)
	if weights {
		c.weighAt = now.Add(t.policy.weighEvery())
	}
	t.views(func(v *view) {
		if !v.inUse.Load() {
			return
		}
		v.look()
		if weights {
			v.near.reweigh(t.policy, now)
			v.far.reweigh(t.policy, now)
		}
	})
}

// weighEvery is how often weights are taken over: often enough for a slow start to
// be smooth, but what is weighed costs something for each instance.
func (p *Policy) weighEvery() time.Duration {
	every := time.Second
	if p.Balance.Policy == balance.WeightedRoundRobin {
		every = p.Reports.Update
	}
	if p.startsSlowly() {
		every = min(every, p.SlowStart.Window/50)
	}
	return max(every, glance)
}
