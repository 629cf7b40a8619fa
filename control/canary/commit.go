package canary

import (
	"errors"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/ledger"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// commit writes what a canary is to be, beside the goroutine that decides. l.mu is held.
func (l *leading) commit(r *led) {
	want, from := r.want, r.entry
	r.committing = true
	r.use(want.GetNumber())
	l.ledger.Go(func() {
		err := l.ledger.Commit(from, want, nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		r.committing = false
		l.wrote(r, want, err)
		l.ledger.Signal()
	})
}

// wrote takes note of what came of a commit. What the store has then is in the ledger. What
// does not hold yet is decided anew. l.mu is held.
func (l *leading) wrote(r *led, want *controlv1.RunState, err error) {
	if r.want == want && !r.obeyed {
		r.want = nil
	}
	if err == nil || errors.Is(err, ledger.ErrChanged) {
		r.problem, r.backoff, r.retryAt = nil, 0, now()
		if err != nil {
			r.retryAt = now().Add(jitter(firstBackoff))
		}
		return
	}
	r.problem = err
	r.backoff = min(max(2*r.backoff, firstBackoff), lastBackoff)
	r.retryAt = now().Add(jitter(r.backoff))
	if l.ledger.Context().Err() == nil {
		l.log.Warn("canary: the store does not take a transition; it is tried again",
			slog.String("canary", r.name), slog.Uint64("number", want.GetNumber()), slog.Any("error", err))
	}
}

// settle takes over what the ledger has of all canaries. l.mu is held.
func (l *leading) settle(entries map[string]ledger.Entry) {
	for name, e := range entries {
		r := l.canaries[name]
		if r == nil {
			if e.State == nil && !e.Pending() {
				continue
			}
			r = &led{service: l.service, name: name}
			l.canaries[name] = r
		}
		if !l.settled && Active(e.State.GetPhase()) {
			r.inherited = e.State.GetRun()
		}
		before := r.entry.State
		r.entry = e
		if e.State != before && !proto.Equal(e.State, before) {
			l.written(r)
		}
	}
	for name, r := range l.canaries {
		if _, ok := entries[name]; !ok && r.want == nil {
			delete(l.canaries, name)
		}
	}
	if !l.settled {
		// What was said before could not be taken, and is said again.
		l.settled, l.since = true, now()
	}
}

// written takes another state over that was written, by this sidecar or somebody else. A
// roll-back that is to be written still is, over it, if it is of the same run. l.mu is held.
func (l *leading) written(r *led) {
	s, back := r.entry.State, r.want
	switch {
	case r.obeyed && (s == nil || s.GetRun() == back.GetRun() && !over(s)):
		if !control.After(back.GetNumber(), s.GetNumber()) {
			back = proto.CloneOf(back)
			back.Number = control.Next(s.GetNumber())
			l.back(r, back)
		}
		return
	case r.obeyed:
		r.want, r.obeyed = nil, false
	case !r.committing:
		r.want = nil // it was decided of another state
	}
	switch {
	case s == nil:
		delete(l.canaries, r.name) // somebody has removed it: the run is over
	case !proto.Equal(s, r.state):
		l.hold(r, s)
	}
}

// tell tells the metrics and hooks of a transition that was written; a request that was
// refused is none. It is called with l.mu held or not.
func (l *leading) tell(s *controlv1.RunState, transition *controlv1.Transition, key string) {
	if s.GetRefusal() != nil {
		return
	}
	l.o.Metrics.transition(l.service, s.GetName(), s.GetPhase())
	if doc, err := Document(s); err == nil {
		l.o.Hooks.Tell(doc.GetHooks(), transition, key)
	}
}
