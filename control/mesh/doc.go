// Package mesh is what sidecars say to the one that is elected for a service, for as long
// as a canary or an experiment of the service runs: the election, the stream of what each
// counts, and the way back of what is decided (pillion.mesh.v1). It knows nothing of how
// that is counted or decided.
//
// # Election
//
// A [Member] is told which services are active. For each it watches the lock
// [control.LeaderKey]. Where nobody holds it, candidates wait for a time drawn so that
// few of them try at once however many there are (see wait.go), look again, and only then
// begin a session and try the lock; who fails waits longer each time.
//
// A sidecar that ends in order, or has nothing to decide any more, gives the lock back
// and tells all who report to it: another is elected within 0.5 s and what the store
// takes. After a crash the lock goes with the session: the store ends it once it was not
// renewed for its TTL (10 s by default, with Consul up to twice as long), the lock cannot
// be taken for a second more, and then another is elected within half a second. Until
// then each sidecar acts on what it sees itself. An elected sidecar whose session may be
// lost stops at once; it never acts beyond that, and what it might still be writing fails,
// also where it has not noticed yet: each of its commits is on the condition that it
// holds the lock ([kv.Fence]).
//
// # Reports
//
// All others dial the elected one, by mutual TLS where it takes that, expecting the
// identity that the lock names; the elected one reports to itself. Counts are sums, so a
// report that is lost does no harm: the next stream begins with all of them. The elected
// one says something every two seconds at least; one that is silent for six is connected
// to again, and is a problem until it answers ([Member.Problems]).
//
// # Who may report
//
// What a sidecar reports can have a canary rolled back, so it matters who does:
//
//   - A caller that has proven an identity has to be of the own trust domain, and of the
//     service that it says it is of. It may say that it is of none. [Options.May] says
//     more: beside the app itself, who may not call the app may not report on it, nor ask
//     what others have, and access policies can say who may.
//   - A caller that has proven nothing may report where this sidecar has no identity
//     either, or its inbound port is not strict, unless [Options.May] says that it may not.
//     Everybody who reaches the port can then report what he likes, as he could send the
//     app what he likes.
//   - Nobody can change what another has reported: counts are kept by a number made of
//     the proven identity, the sidecar's name, and the number of its process, which is
//     random and told to the elected sidecar alone. It stands in [meshv1.Hello.Process]
//     as [Leading] gets it, so that the same sidecar has the same number at the next
//     elected one.
//
// Streams, reports, their size, their rate and all that is in them are bounded
// ([Limits]). A sidecar can lie about what it sees itself; that it may do so once for
// each process that it claims to be is bounded too.
package mesh

import (
	"context"

	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Counting is what every sidecar does: it counts what it sees, and obeys. The agents of
// packages canary and experiment do. Its methods may be called from many goroutines at
// once, but those about one service never overlap.
type Counting interface {
	// Collect adds what was counted for a service to a report: what has changed since
	// the last one, or, at the beginning of a stream, all. Where a report is large it is
	// sent in several, of which each has some of the units.
	Collect(service string, r *meshv1.ReportRequest, all bool)
	// Urgent is told, once, whom to tell of services that have something to report at
	// once. What it is told never blocks, and may be called at any time.
	Urgent(func(service string))
	// Obey takes over what was decided. States that are older than what is known already
	// change nothing.
	Obey(service string, states []*controlv1.RunState, thresholds map[string]uint64)
}

// Hearing is what a Counting may be too.
type Hearing interface {
	// Hear is told whose counts the elected sidecar has, by experiment and run.
	Hear(service string, sources map[string]*meshv1.Sources)
}

// Leading is what an elected sidecar does for one service: it takes what all count, its
// own counts included, and decides. Its methods are called one at a time, and should not
// wait for anything.
type Leading interface {
	// Take takes a report. from is what its stream began with, checked; from.Process is
	// nobody else's. What is in the report is bounded, and no more than that: its numbers
	// may be any.
	Take(from *meshv1.Hello, r *meshv1.ReportRequest)
	// Gone says that a sidecar's stream has ended. What it had counted still counts, and
	// it may come back.
	Gone(from *meshv1.Hello)
	// Evidence and Results answer the RPCs of these names; nil: there is no such canary or
	// experiment. What they return is not changed any more.
	Evidence(name string) *meshv1.EvidenceResponse
	Results(name string) *meshv1.ResultsResponse
	// Close ends it: another is elected, or nothing runs any more. Nothing is written from
	// then on.
	Close()
}

// Lead begins to lead a service. ctx ends when the lock is lost or given back. store is the
// one that the lock is in, and takes no commits of who does not hold it any more. publish,
// which never blocks, has all sidecars told of what was decided, at once, this one
// included; who connects later is told the last of each state, threshold and sources.
type Lead func(ctx context.Context, service string, store kv.Store, publish func(*meshv1.ReportResponse)) Leading
