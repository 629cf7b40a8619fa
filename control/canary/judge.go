package canary

import (
	"log/slog"
	"time"
)

// What the judge has to look at.
const (
	nothing uint32 = iota
	counted
	failing
)

const (
	// glance is how long RPCs that did not fail wait for a look, which is for their latency.
	glance = 50 * time.Millisecond
	// breath is the least time between two looks.
	breath = 2 * time.Millisecond
)

// notice has the judge look soon. It is called on the path of RPCs: nearly always it is
// one atomic load.
func (a *Agent) notice(what uint32) {
	for {
		pending := a.pending.Load()
		if pending >= what {
			return
		}
		if a.pending.CompareAndSwap(pending, what) {
			break
		}
	}
	select {
	case a.wake <- struct{}{}:
	default: // it is awake already, or about to be
	}
}

// judge looks at what was counted, when there is something, until the agent is closed. It
// is a goroutine of its own: no RPC waits for it.
func (a *Agent) judge() {
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	// wait returns false when the agent is closed.
	wait := func(d time.Duration, orWoken bool) bool {
		var woken chan struct{}
		if orWoken {
			woken = a.wake
		}
		timer.Reset(d)
		select {
		case <-timer.C:
		case <-woken:
		case <-a.stop:
			return false
		}
		return true
	}
	for {
		select {
		case <-a.wake:
		case <-a.stop:
			return
		}
		if a.pending.Load() == counted && !wait(glance, true) {
			return
		}
		a.pending.Store(nothing) // before looking: what is counted from now on wakes again
		a.look()
		if !wait(breath, false) {
			return
		}
	}
}

// look judges all canaries that run, and takes RPCs off those that are worse.
func (a *Agent) look() {
	a.mu.Lock()
	var tripped []string
	for service, runs := range a.services {
		for _, r := range runs {
			if r.step == nil || r.tripped != nil || len(r.guards.tests) == 0 {
				continue
			}
			r.evidence.look(r.read(a.o.Events), r.state.GetWeight(), now())
			if r.tripped = r.evidence.found(r.guards.level(localPart)); r.tripped == nil {
				continue
			}
			tripped = append(tripped, service)
			a.o.Metrics.trip(service, r.name)
			a.gauge(r)
			a.o.Logger.Warn("canary: this sidecar takes its own RPCs off it for the rest of the step",
				slog.String("canary", r.name), slog.String("service", service), slog.Uint64("run", r.step.run),
				slog.Uint64("step", uint64(r.step.number)), slog.String("reason", r.tripped.reason))
		}
	}
	urgent := a.urgent
	a.mu.Unlock()
	for _, service := range tripped {
		a.changed(service)
		for _, tell := range urgent {
			tell(service)
		}
	}
}
