package canary

import (
	"errors"
	"time"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// obstructed returns the state after a request to start a canary that would divide nothing.
// It is nil where it would divide something, as far as this sidecar knows, and where
// something else is asked. l.mu is held.
func (l *leading) obstructed(r *led, at time.Time) *controlv1.RunState {
	q := r.entry.Request
	if l.o.Obstacle == nil || q.GetAction() != controlv1.Action_ACTION_START || Active(r.state.GetPhase()) {
		return nil
	}
	why := l.o.Obstacle(l.service)
	if why == "" {
		return nil
	}
	s := r.refused(q, errors.New("it would divide nothing: "+why), at)
	s.Request = q.GetNumber()
	return s
}
