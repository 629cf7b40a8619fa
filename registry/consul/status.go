package consul

import "time"

// Status is how a Source fares, for people and for metrics.
type Status struct {
	// Agent is the agent's address.
	Agent string
	// Connected says that the agent answered when it was asked last. It is false
	// as long as nothing was asked.
	Connected bool
	// Contact is when it answered last; zero for never.
	Contact time.Time
	// Problems are what is wrong now, those that have lasted longest first, at most
	// 20.
	Problems []Problem
	// LastError is the last error there was, over or not, in one line; empty for
	// none. LastErrorAt is when it was met last.
	LastError   string
	LastErrorAt time.Time
	// Queries is how many blocking queries want to wait at the agent, Slots how
	// many may at the same time. With more queries than slots they take turns.
	Queries, Slots int
	// Services are the services watched now, in alphabetical order.
	Services []ServiceStatus
}

// Problem is something that is wrong, such as a permission that the token lacks.
type Problem struct {
	// Text says what and what to do, in one line.
	Text string
	// Since is when it began.
	Since time.Time
}

// ServiceStatus is how one watched service fares.
type ServiceStatus struct {
	// Name as it was asked for.
	Name string
	// Known says that something was handed over.
	Known bool
	// Exists says that Consul knows the service.
	Exists bool
	// Endpoints is how many take traffic.
	Endpoints int
	// Stale says that what was handed over is what was known last. StaleSince is
	// when that began, Error why, in one line.
	Stale      bool
	StaleSince time.Time
	Error      string
}

// Status returns how the source fares now. It asks the agent nothing.
func (s *Source) Status() Status {
	a := s.agent
	status := Status{Agent: a.address}
	if at := a.contact.Load(); at != 0 {
		status.Contact = time.Unix(0, at)
		status.Connected = !a.troubles.in(scopeAgent)
	}
	status.Problems = a.troubles.active()
	if at, err := a.troubles.latest(); err != nil {
		status.LastError, status.LastErrorAt = err.Error(), at
	}
	status.Queries, status.Slots = a.budget.load()

	for _, w := range s.watches() {
		status.Services = append(status.Services, w.status())
	}

	return status
}

func (w *watched) status() ServiceStatus {
	w.mu.Lock()
	defer w.mu.Unlock()

	status := ServiceStatus{Name: w.name, Known: w.known, Exists: w.current != nil}
	if w.current != nil {
		status.Endpoints = len(w.current.Endpoints)
		status.Stale = w.current.Stale
	}
	if w.failing != nil {
		status.StaleSince, status.Error = w.since, w.failing.Error()
	}

	return status
}
