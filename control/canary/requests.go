package canary

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/requests"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// done returns the state after what was asked, which says why where it is refused. others
// are the canaries of the service that run.
func (r *led) done(asked ledger.Entry, others []string, at time.Time) *controlv1.RunState {
	q := asked.Request
	s, err := r.obey(asked, others, at)
	if err != nil {
		s = r.refused(q, err, at)
	}
	s.Request = q.GetNumber()
	return s
}

// refused returns the state after a request that is refused: as it was, with why.
func (r *led) refused(q *controlv1.Request, why error, at time.Time) *controlv1.RunState {
	s := proto.CloneOf(r.state)
	if s == nil {
		s = &controlv1.RunState{Kind: kind, Name: r.name, Service: r.service, Since: timestamppb.New(at)}
	}
	s.Number, s.Refusal = control.Next(r.highest), requests.Refusal(q, why, at)
	return s
}

// obey returns the state after a request, or why it cannot be done.
func (r *led) obey(asked ledger.Entry, others []string, at time.Time) (*controlv1.RunState, error) {
	q := asked.Request
	phase, why := r.state.GetPhase(), said(q)
	var (
		running = phase == controlv1.Phase_PHASE_RUNNING
		paused  = phase == controlv1.Phase_PHASE_PAUSED
		is      = fmt.Errorf("it is %s", control.PhaseWord(phase))
	)
	if err := requests.Outdated(q, at); err != nil {
		return nil, err
	}
	if q.GetAction() == controlv1.Action_ACTION_START {
		return r.start(asked, others, at)
	}
	if (running || paused) && !r.active() && q.GetAction() != controlv1.Action_ACTION_ABORT {
		return nil, errors.New("its document cannot be read: abort it")
	}
	switch q.GetAction() {
	case controlv1.Action_ACTION_PAUSE:
		if running {
			return r.next(controlv1.Phase_PHASE_PAUSED, why, q.GetAuthor(), at), nil
		}
	case controlv1.Action_ACTION_RESUME:
		if paused {
			return r.next(controlv1.Phase_PHASE_RUNNING, why, q.GetAuthor(), at), nil
		}
	case controlv1.Action_ACTION_PROMOTE:
		if running || paused {
			return r.forward(why, q.GetAuthor(), at), nil
		}
	case controlv1.Action_ACTION_PROMOTE_FULLY:
		if running || paused {
			return r.next(controlv1.Phase_PHASE_PROMOTED, why, q.GetAuthor(), at), nil
		}
	case controlv1.Action_ACTION_ABORT:
		if running || paused || phase == controlv1.Phase_PHASE_PROMOTED {
			return r.next(controlv1.Phase_PHASE_ABORTED, why, q.GetAuthor(), at), nil
		}
	default:
		return nil, errors.New("this version of Pillion does not know it")
	}
	return nil, is
}

// start returns the state at the beginning of a new run.
func (r *led) start(asked ledger.Entry, others []string, at time.Time) (*controlv1.RunState, error) {
	q, doc := asked.Request, asked.Document
	c := doc.GetCanary()
	switch {
	case Active(r.state.GetPhase()):
		return nil, fmt.Errorf("it is %s already", control.PhaseWord(r.state.GetPhase()))
	case asked.Problem != nil:
		return nil, fmt.Errorf("its document is wrong: %w", asked.Problem)
	case c == nil:
		return nil, errors.New("there is no such document any more")
	case q.GetRevision() != 0 && q.GetRevision() != doc.GetRevision():
		return nil, fmt.Errorf("revision %d was meant, but the document is at %d by now", q.GetRevision(), doc.GetRevision())
	case c.GetName() != r.name || c.GetService() != r.service:
		return nil, fmt.Errorf("the document is about the canary %q of %q", c.GetName(), c.GetService())
	case len(others) > 0:
		return nil, fmt.Errorf("the canary %q of this service runs, and only one can", others[0])
	}
	if err := configyaml.CheckCanary(configyaml.EffectiveCanary(c)); err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(raw) > ledger.MaxBytes {
		return nil, fmt.Errorf("the document has %d bytes, more than the %d that can be run", len(raw), ledger.MaxBytes)
	}
	return &controlv1.RunState{
		Kind: kind, Name: r.name, Service: r.service, Run: control.Next(r.state.GetRun()), Number: control.Next(r.highest), Revision: doc.GetRevision(),
		Phase: controlv1.Phase_PHASE_RUNNING, Step: 1, Weight: c.GetSteps()[0].GetWeight(),
		Since: timestamppb.New(at), StepSince: timestamppb.New(at), Started: timestamppb.New(at),
		Reason: documents.Line(said(q)), By: documents.Line(q.GetAuthor()), Document: raw,
	}, nil
}

// said is what somebody said who asked for something.
func said(q *controlv1.Request) string { return cmp.Or(q.GetMessage(), requests.Verb(q.GetAction())) }
