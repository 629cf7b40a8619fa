package upstream

import "sync"

// events counts how often instances were found to be unwell, by the subsets that they were
// in then: an instance that is gone has been unwell nevertheless.
type events struct {
	mu       sync.Mutex
	bySubset map[string]uint64 // "": of all instances
}

// unwell counts that an instance was ejected, or that its breaker has opened.
func (c *Cluster) unwell(in *Instance) {
	subsets := c.table.Load().policy.Subsets
	e := in.Endpoint()
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	if c.events.bySubset == nil {
		c.events.bySubset = make(map[string]uint64)
	}
	c.events.bySubset[""]++
	for name, subset := range subsets {
		if subset.has(e) {
			c.events.bySubset[name]++
		}
	}
	for name := range c.events.bySubset {
		if _, known := subsets[name]; !known && name != "" {
			delete(c.events.bySubset, name)
		}
	}
}

// Events returns how often instances of a subset were ejected as outliers, or their
// circuit breakers opened, since the subset is known, and how many instances it has that
// RPCs from here may go to. It is false where there is no such subset. "" stands for all
// instances.
func (c *Cluster) Events(subset string) (count uint64, instances int, known bool) {
	v := c.table.Load().named(subset)
	if v == nil {
		return 0, 0, false
	}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	return c.events.bySubset[subset], v.size(), true
}
