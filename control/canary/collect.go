package canary

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Urgent implements mesh.Counting.
func (a *Agent) Urgent(tell func(service string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.urgent = append(a.urgent, tell)
}

// Collect implements mesh.Counting.
func (a *Agent) Collect(service string, r *meshv1.ReportRequest, all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	runs := a.services[service]
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		one := runs[name]
		if s := one.state; s != nil && (all || s != one.told && s.GetNumber() != one.heard) {
			one.heard = s.GetNumber()
			r.Heard = append(r.Heard, &meshv1.Heard{Kind: kind, Name: name, Number: s.GetNumber(), Run: s.GetRun(), Since: s.GetSince()})
		}
		counts := one.counts(a.o.Events)
		// A roll-back that could not be written is said until the store has it: who was just
		// elected may not have known of the canary when it was said first.
		again := counts.GetRolledBack() > 0 && time.Since(one.reportedAt) >= time.Second
		if counts == nil || !all && !again && proto.Equal(counts, one.reported) {
			continue
		}
		one.reported, one.reportedAt = counts, time.Now()
		r.Canaries = append(r.Canaries, counts)
	}
}

// counts is what there is to report of a canary; nil: nothing.
func (r *run) counts(events func(service, subset string) (uint64, int, bool)) *meshv1.CanaryCounts {
	if r.state == nil {
		return nil
	}
	c := &meshv1.CanaryCounts{Name: r.name, Run: r.state.GetRun(), Step: r.state.GetStep()}
	if newer(r.told, r.stored) && over(r.state) {
		// Whoever decided it may be gone, and could not write it: whoever is elected now
		// learns of it here.
		c.RolledBack, c.Reason = r.state.GetNumber(), r.state.GetReason()
		return c
	}
	if r.step == nil {
		return nil
	}
	p := r.read(events)
	c.Stable, c.Canary = p.stable.Proto(), p.canary.Proto()
	if r.tripped != nil {
		c.Tripped = r.tripped.guard
	}
	return c
}
