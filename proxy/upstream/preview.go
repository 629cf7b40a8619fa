package upstream

import (
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// Candidate is an instance that an RPC may go to, described to people.
type Candidate struct {
	Endpoint registry.Endpoint
	// Subset is the one that the instance is chosen from, "" if that is all: not the
	// RPC's where that is one without usable instances, and another stands in.
	Subset string
	// Far is one that is only used if there is a reason not to take a near one.
	Far bool
	// Share is the part of the RPCs, from 0 to 1, that its weight gives it among
	// those of the same Subset which are as near.
	Share float64
	// Usable says whether it can be chosen now; Why is why not.
	Usable bool
	Why    string
	// InFlight is how many RPCs it has under way.
	InFlight int64
	// Latency is what package balance estimates; 0: not known.
	Latency time.Duration
	// Would is the one that would be picked. Where chance decides, it is one that
	// might be.
	Would bool
}

// Preview returns the instances that Pick would choose among, and marks the one that
// it would choose. It changes nothing. ch may be nil.
func (c *Cluster) Preview(ch *Choice) []Candidate {
	if ch == nil {
		ch = &anything
	}
	t := c.table.Load()
	v := t.view(ch.Subset)
	if v == nil {
		return nil
	}
	would, from := t.pick(ch, true)
	now := ch.Now
	if now.IsZero() {
		now = time.Now()
	}
	candidates := v.candidates(nil, would, now)
	for _, next := range v.fallback {
		if from == nil || from == v {
			break
		}
		v = next
		candidates = v.candidates(candidates, would, now)
	}
	return candidates
}

// candidates appends the view's instances.
func (v *view) candidates(to []Candidate, would *Instance, now time.Time) []Candidate {
	for _, t := range [...]*tier{&v.near, &v.far} {
		weights := t.weights
		if c := t.choosing.Load(); c != nil {
			weights = c.weights
		}
		var sum float64
		for _, w := range weights {
			sum += float64(w)
		}
		for i, in := range t.instances {
			c := Candidate{
				Endpoint: *in.Endpoint(), Subset: v.subset, Far: t == &v.far,
				Share: float64(weights[i]) / sum, InFlight: in.InFlight(),
				Latency: time.Duration(in.Latency(now.UnixNano())), Would: in == would,
			}
			if c.Usable = in.Usable() || v.panicking.Load() && in.Reachable(); !c.Usable {
				c.Why = in.why()
			}
			to = append(to, c)
		}
	}
	return to
}

// why says why the instance is not used.
func (in *Instance) why() string {
	switch {
	case in.slow.Load():
		return "takes long to connect to"
	case !in.Reachable():
		if err := in.LastError(); err != nil {
			return err.Error()
		}
	}
	return in.Blocked().String()
}
