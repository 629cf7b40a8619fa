// Package mesh is what sidecars say to the one that is elected for a service, for as long
// as a canary or an experiment of the service runs: the election, the stream of what each
// counts, and the way back of what is decided (pillion.mesh.v1). It knows nothing of how
// that is counted or decided.
package mesh

import (
	"context"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Counting is what every sidecar does: it counts what it sees, and obeys. The agents of
// packages canary and experiment do.
type Counting interface {
	// Collect adds what was counted for a service to a report: what has changed since
	// the last one, or, at the beginning of a stream, all.
	Collect(service string, r *meshv1.ReportRequest, all bool)
	// Urgent is told of services that have something to report at once. It must not block.
	Urgent(func(service string))
	// Obey takes over what was decided. States that are older than what is known already
	// change nothing.
	Obey(service string, states []*controlv1.RunState, thresholds map[string]uint64)
}

// Leading is what an elected sidecar does for one service: it takes what all count, its
// own counts included, and decides.
type Leading interface {
	// Take takes a report. from is what its stream began with, checked.
	Take(from *meshv1.Hello, r *meshv1.ReportRequest)
	// Gone says that a sidecar's stream has ended. What it had counted still counts.
	Gone(from *meshv1.Hello)
	// Evidence and Results answer the RPCs of these names; nil: there is no such canary or
	// experiment.
	Evidence(name string) *meshv1.EvidenceResponse
	Results(name string) *meshv1.ResultsResponse
	// Close ends it: another is elected, or nothing runs any more. Nothing is written from
	// then on.
	Close()
}

// Lead begins to lead a service. ctx ends when the lock is lost. publish has all sidecars
// told of what was decided, at once.
type Lead func(ctx context.Context, service string, publish func(*meshv1.ReportResponse)) Leading
