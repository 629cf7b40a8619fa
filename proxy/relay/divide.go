package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// divided is what split policies have made of an RPC. The memory behind it is kept for the
// next one.
type divided struct {
	groups   []policy.Chosen     // those that it is in
	measures []telemetry.Measure // what the app reported in the answer that the caller gets
	names    []string            // of all its groups, for the access log
	outcome  telemetry.Outcome   // what observers are told
}

func (d *divided) forget() {
	clear(d.groups)
	clear(d.measures)
	clear(d.names)
	d.groups, d.measures, d.names = d.groups[:0], d.measures[:0], d.names[:0]
}

// divide has the split policies of the service where the RPC goes choose its groups, and
// perhaps another place. addressed and method are what the RPC is addressed to. r.mu is
// held.
func (r *RPC) divide(set *policy.Set, splits *policy.Splits, addressed string, decision policy.Decision, method *policy.Method) policy.Decision {
	if method == nil {
		r.look(nil)
	}
	if !method.Looks() {
		r.pol.looked.Mark()
	}
	pol := r.pol
	pol.groups = splits.Decide(&pol.looked, &decision, pol.groups[:0], nil)
	pol.set, pol.addressed = set, addressed
	pol.decision, pol.decided = decision, true
	return decision
}

// tell counts an RPC that has ended in its groups, and tells who observes them.
// excused: the end says nothing about where it went. r.mu is held.
func (d *divided) tell(code codes.Code, excused bool, took time.Duration) {
	o := &d.outcome
	o.Code, o.Took, o.Excused = code, took, excused
	if !excused {
		o.Measures = d.measures
	}
	for i := range d.groups {
		g := &d.groups[i]
		if g.Counts != nil {
			g.Counts.Ended(code, took)
		}
		if g.Observer != nil {
			o.Unit, o.Forced = g.Unit, g.Forced
			g.Observer.Ended(o)
		}
	}
	o.Measures = nil
}

// excused says that how the RPC ended says nothing about its destination. r.mu is held.
func (r *RPC) excused(flag wire.Flag) bool {
	switch flag {
	case wire.FlagDownstreamDisconnect, wire.FlagDownstreamProtocolError, wire.FlagOverload, wire.FlagFaultInjected, wire.FlagDelayInjected:
		return true
	}
	return r.pol.limited || r.pol.pending
}

// groupNames are the names of the groups that the RPC is in, that of its route first. r.mu
// is held.
func (r *RPC) groupNames() []string {
	pol := r.pol
	pol.names = pol.names[:0]
	if g := pol.decision.Group; g != nil {
		pol.names = append(pol.names, g.Name)
	}
	for i := range pol.groups {
		pol.names = append(pol.names, pol.groups[i].Name)
	}
	return pol.names
}
