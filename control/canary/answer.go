package canary

import (
	"errors"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/documents"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Evidence implements mesh.Leading.
func (l *leading) Evidence(name string) *meshv1.EvidenceResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.canaries[name]
	if r == nil || r.state == nil {
		return nil
	}
	at := now()
	e := &meshv1.EvidenceResponse{State: proto.CloneOf(r.state), Guards: r.state.GetGuards(), Tally: r.state.GetTally()}
	if r.active() {
		r.look(at)
		e.Guards, e.Tally = r.evidence.states(), r.tally()
		tripped, _ := r.pool.trippedBy()
		e.Tripped = slices.Sorted(maps.Keys(tripped))
		w := r.waiting(at, l.since.Add(listening))
		e.Waiting = w.what
		if !w.until.IsZero() {
			e.Next = timestamppb.New(w.until)
		}
	}
	if err := errors.Join(r.problem, l.ledger.Away()); err != nil && (r.active() || r.want != nil) {
		e.Waiting = "the store, which is away: " + documents.Line(err.Error())
	}
	return e
}
