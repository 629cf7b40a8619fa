package experiment

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// maxRunning is how many experiments of a service can run at a time: every RPC is
	// looked at by each, and there is a bound for all split policies together.
	maxRunning = 24
)

// decide writes the transition that an experiment is due for, and says whether it has.
func (l *leading) decide(e ledger.Entry) bool {
	now := time.Now()
	var next *controlv1.RunState
	switch {
	case e.Lost:
		next = e.Restored(l.o.ID)
	case e.Behind:
		next = e.Ahead(l.o.ID)
	case e.Pending():
		var err error
		if next, err = l.answer(e, now); err != nil {
			l.log.Warn("experiment: what was asked for cannot be done yet, and is tried again",
				slog.String("experiment", e.Name), slog.Any("error", err))
			return false
		}
	case runs(e.State):
		if next = l.timeOver(e, now); next == nil {
			next = l.yields(e, now)
		}
	}
	if next == nil {
		return false
	}
	var results []byte
	if next.GetPhase() == controlv1.Phase_PHASE_ENDED && runs(e.State) {
		results = l.final(e.Name)
	}
	if err := l.ledger.Commit(e, next, results); err != nil {
		if !errors.Is(err, ledger.ErrChanged) && l.ledger.Context().Err() == nil {
			l.log.Warn("experiment: the store does not take a transition; it is tried again", slog.String("experiment", e.Name), slog.Any("error", err))
		}
		return false
	}
	entries, _ := l.ledger.Entries()
	l.settle(entries) // before others hear of it, and report
	if entries[e.Name].State != nil {
		l.publish(&meshv1.ReportResponse{States: []*controlv1.RunState{entries[e.Name].State}})
	}
	return true
}

// tell tells hooks of a transition that was written; a request that was refused is none.
func (l *leading) tell(state *controlv1.RunState, transition *controlv1.Transition, key string) {
	if state.GetRefusal() != nil {
		return
	}
	if doc, err := decode(state.GetDocument()); err == nil {
		l.o.Hooks.Tell(doc.GetHooks(), transition, key)
	}
}

// timeOver returns the state after the experiment's end; nil: that is still to come.
func (l *leading) timeOver(e ledger.Entry, now time.Time) *controlv1.RunState {
	doc, err := decode(e.State.GetDocument())
	if err != nil || doc.GetEnd() == nil || now.Before(doc.GetEnd().AsTime()) {
		return nil
	}
	return ended(e.State, "its time was over at "+doc.GetEnd().AsTime().Format(time.RFC3339), l.o.ID, now)
}

func ended(state *controlv1.RunState, reason, by string, now time.Time) *controlv1.RunState {
	next := proto.CloneOf(state)
	next.Phase, next.Reason, next.By, next.Since = controlv1.Phase_PHASE_ENDED, documents.Line(reason), documents.Line(by), timestamppb.New(now)
	next.Refusal = nil
	return next
}

// answer returns the state after the request of an entry, which says why where that is
// refused; nil: it is to be waited. An error says that it cannot be known yet.
func (l *leading) answer(e ledger.Entry, now time.Time) (*controlv1.RunState, error) {
	q := e.Request
	var refusal string
	outdated := requests.Outdated(q, now)
	switch q.GetAction() {
	case controlv1.Action_ACTION_START:
		if outdated != nil {
			refusal = outdated.Error()
			break
		}
		if d := e.Document; d != nil && d.GetRevision() < q.GetRevision() {
			return nil, nil // the document that is meant is yet to come
		}
		others, err := l.others(e.Name, e.Document.GetExperiment().GetLayer() != nil)
		if err != nil {
			return nil, err
		}
		next, why := start(e, others, now)
		if why == "" {
			return next, nil
		}
		refusal = why
	case controlv1.Action_ACTION_STOP, controlv1.Action_ACTION_ABORT:
		if runs(e.State) {
			next := ended(e.State, cmp.Or(q.GetMessage(), "somebody stopped it"), q.GetAuthor(), now)
			next.Request = q.GetNumber()
			return next, nil
		}
		refusal = "it does not run"
	default:
		refusal = "an experiment can be started and stopped, no more"
	}
	next := &controlv1.RunState{Since: timestamppb.New(now)}
	if e.State != nil {
		next = proto.CloneOf(e.State)
	}
	next.Request, next.Refusal = q.GetNumber(), requests.Refusal(q, errors.New(refusal), now)
	return next, nil
}

// start returns the state at the beginning of a new run, or why it cannot begin.
func start(e ledger.Entry, others []other, now time.Time) (*controlv1.RunState, string) {
	q, written := e.Request, e.Document.GetExperiment()
	switch {
	case runs(e.State):
		return nil, "it is running already"
	case e.Problem != nil:
		return nil, "its document is wrong: " + e.Problem.Error()
	case written == nil:
		return nil, "there is no such document any more"
	case q.GetRevision() != 0 && q.GetRevision() != e.Document.GetRevision():
		return nil, fmt.Sprintf("revision %d was meant, but the document is at %d by now", q.GetRevision(), e.Document.GetRevision())
	}
	document, err := proto.Marshal(written)
	if err != nil {
		return nil, err.Error()
	}
	doc, err := decode(document)
	switch {
	case err != nil:
		return nil, "its document is wrong: " + err.Error()
	case len(document) > ledger.MaxBytes:
		return nil, fmt.Sprintf("its document has %d bytes, more than the %d that can be run", len(document), ledger.MaxBytes)
	case doc.GetEnd() != nil && !now.Before(doc.GetEnd().AsTime()):
		return nil, "it ended at " + doc.GetEnd().AsTime().Format(time.RFC3339) + " (end)"
	}
	same := 0
	for _, other := range others {
		if other.document.GetService() == doc.GetService() {
			same++
		}
	}
	if same >= maxRunning {
		return nil, fmt.Sprintf("%d experiments of the service run already, and no more can: stop one of them first", same)
	}
	if why := Problem(doc, documentsOf(others)); why != "" {
		return nil, why
	}
	return &controlv1.RunState{
		Run: control.Next(e.State.GetRun()), Revision: e.Document.GetRevision(), Phase: controlv1.Phase_PHASE_RUNNING,
		Since: timestamppb.New(now), StepSince: timestamppb.New(now), Started: timestamppb.New(now),
		Reason: documents.Line(cmp.Or(q.GetMessage(), "somebody started it")), By: documents.Line(q.GetAuthor()), Request: q.GetNumber(), Document: document,
	}, ""
}

// final returns what a run has come to, for the history; nil: nobody knows.
func (l *leading) final(name string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runs[name]
	if r == nil || r.pool == nil {
		return nil
	}
	results, err := r.written()
	if err != nil {
		l.log.Error("experiment: its results cannot be written", slog.String("experiment", name), slog.Any("error", err))
		return nil
	}
	return results
}
