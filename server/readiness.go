package server

import (
	"slices"
	"sync"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// Readiness collects what has to hold before a sidecar takes traffic. Who
// brings a thing about says so with Set. Its methods may be called from many
// goroutines at once.
type Readiness struct {
	mu         sync.Mutex
	conditions []condition // in the order in which they were named
	draining   bool
	watchers   []func(ready bool)
}

type condition struct {
	name   string
	reason string // why it does not hold; "" if it does
}

// NewReadiness names all that has to hold, such as "outbound". None of it does
// yet.
func NewReadiness(names ...string) *Readiness {
	r := &Readiness{}
	for _, name := range names {
		r.conditions = append(r.conditions, condition{name: name, reason: "starting"})
	}
	return r
}

// Set says that a condition holds, or why it does not. A name that NewReadiness
// was not given becomes one more condition.
func (r *Readiness) Set(name, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.conditions, func(c condition) bool { return c.name == name })
	if i < 0 {
		i = len(r.conditions)
		r.conditions = append(r.conditions, condition{name: name})
	}
	r.conditions[i].reason = reason
	r.tell()
}

// Drain says that the sidecar is shutting down. It is not ready from now on,
// whatever else is set.
func (r *Readiness) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	r.tell()
}

// Ready reports whether all conditions hold and the sidecar is not draining.
func (r *Readiness) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready()
}

// ready needs mu.
func (r *Readiness) ready() bool {
	return !r.draining && !slices.ContainsFunc(r.conditions, func(c condition) bool { return c.reason != "" })
}

// state returns all there is to know.
func (r *Readiness) state() (ready, draining bool, conditions []*adminv1.Condition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conditions {
		conditions = append(conditions, &adminv1.Condition{Name: c.name, Met: c.reason == "", Reason: c.reason})
	}
	return r.ready(), r.draining, conditions
}

// watch calls changed with the present state and with each later one, one at a
// time and in their order. It must not block or call back.
func (r *Readiness) watch(changed func(ready bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, changed)
	changed(r.ready())
}

// tell needs mu, so that watchers hear of the changes in their order.
func (r *Readiness) tell() {
	for _, changed := range r.watchers {
		changed(r.ready())
	}
}
