package canary

import (
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// A canary that would divide nothing is not begun, and it is said why.
func TestCanariesThatWouldDivideNothing(t *testing.T) {
	t.Parallel()
	why := ""
	l := &leading{service: service, o: LeadOptions{Obstacle: func(of string) string {
		if of != service {
			t.Errorf("asked about %q", of)
		}
		return why
	}}}
	asks := func(action controlv1.Action, phase controlv1.Phase) *controlv1.RunState {
		r := &led{service: service, name: "c", entry: ledger.Entry{Request: &controlv1.Request{Action: action, Number: 7}}}
		if phase != controlv1.Phase_PHASE_UNSPECIFIED {
			r.state = &controlv1.RunState{Name: "c", Service: service, Phase: phase, Number: 3}
		}
		return l.obstructed(r, time.Now())
	}
	if s := asks(controlv1.Action_ACTION_START, 0); s != nil {
		t.Errorf("nothing is in its way: %v", s)
	}
	why = `policy "r" sends all RPCs elsewhere`
	for _, phase := range []controlv1.Phase{controlv1.Phase_PHASE_UNSPECIFIED, controlv1.Phase_PHASE_ABORTED} {
		s := asks(controlv1.Action_ACTION_START, phase)
		if text := requests.Refused(s); s.GetRequest() != 7 || Active(s.GetPhase()) || !strings.Contains(text, `it would divide nothing: policy "r" sends all RPCs elsewhere`) {
			t.Errorf("after %v: %q, %v", phase, text, s)
		}
	}
	if s := asks(controlv1.Action_ACTION_START, controlv1.Phase_PHASE_RUNNING); s != nil {
		t.Errorf("one that runs is refused for this: %v", s)
	}
	if s := asks(controlv1.Action_ACTION_ABORT, controlv1.Phase_PHASE_ABORTED); s != nil {
		t.Errorf("to abort is refused for this: %v", s)
	}
	l.o.Obstacle = nil
	if s := asks(controlv1.Action_ACTION_START, 0); s != nil {
		t.Errorf("nobody is asked: %v", s)
	}
}
