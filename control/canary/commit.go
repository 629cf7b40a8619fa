package canary

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// grace is how long a commit that was begun may still take when this one is no longer
// elected.
const grace = 500 * time.Millisecond

// written is what came of a commit.
type written struct {
	// page is what the store has of the canary's state.
	page ledger.Page
	// ours says that it is what was to be written.
	ours bool
	// err says that nothing is known.
	err error
}

// commit writes what a canary is to be, or reads what it is where that is not known, beside
// the goroutine that decides. l.mu is held.
func (l *leading) commit(r *led) {
	want, version, reload := r.want, r.version, r.reload
	r.committing = true
	r.highest = max(r.highest, want.GetNumber()) // nothing, if there is only something to read
	l.running.Go(func() {
		// What was begun is ended, in a moment: others see the last transition of a run, and
		// end this, before it is known here that it was written.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), commitTimeout)
		defer cancel()
		defer context.AfterFunc(l.ctx, func() { time.AfterFunc(grace, cancel) })()
		w := l.write(ctx, r.name, want, version, reload)
		l.mu.Lock()
		defer l.mu.Unlock()
		r.committing = false
		switch {
		case l.ctx.Err() == nil:
			l.wrote(r, want, w)
			l.signal()
		case w.ours:
			l.tell(want)
		}
	})
}

// write writes a state, which may be nil, if the store has the version of the state before.
// reload says that the version is not known.
func (l *leading) write(ctx context.Context, name string, want *controlv1.RunState, version uint64, reload bool) (w written) {
	if want == nil || reload {
		w.page, w.err = l.book.Read(ctx, name)
		w.ours = want != nil && proto.Equal(w.page.State, want)
		if want == nil || w.err != nil || w.ours || w.page.Version != version {
			return w
		}
	}
	w.page, w.ours, w.err = l.book.Write(ctx, want, version, nil)
	return w
}

// wrote takes over what came of a commit. l.mu is held.
func (l *leading) wrote(r *led, want *controlv1.RunState, w written) {
	r.problem = w.err
	if w.err != nil {
		r.reload = true
		r.backoff = min(max(2*r.backoff, firstBackoff), lastBackoff)
		r.retryAt = now().Add(jitter(r.backoff))
		l.log.Warn("canary: the store does not answer; it is asked again",
			slog.String("canary", r.name), slog.Uint64("number", want.GetNumber()), slog.Any("error", w.err))
		if r.want == want && !r.obeyed {
			// It is decided anew, once it is known what has been written.
			r.want, r.lost = nil, want
		}
		return
	}
	r.reload, r.backoff, r.retryAt = false, 0, now()
	if w.ours {
		r.stored, r.version, r.reload = want, w.page.Version, w.page.Version == 0
		l.tell(want)
		if r.want == want {
			obeyed := r.obeyed
			r.want, r.obeyed = nil, false
			if !obeyed {
				l.hold(r, want)
			}
		}
		return
	}
	if w.page.Version == r.version && r.want == nil {
		r.lost = nil // it was not written
		return
	}
	l.overtaken(r, w.page)
}

// overtaken takes a state over that somebody else has written. A roll-back that is to be
// written still is, over it, if it is of the same run. l.mu is held.
func (l *leading) overtaken(r *led, now ledger.Page) {
	s := now.State
	if now.Problem != nil {
		l.log.Error("canary: a state in the store cannot be read, and is written anew", slog.String("canary", r.name), slog.Any("error", now.Problem))
	}
	r.stored, r.version = s, now.Version
	defer func() { r.lost = nil }()
	back, obeyed := r.want, r.obeyed
	r.want, r.obeyed = nil, false
	if obeyed && (s == nil || s.GetRun() == back.GetRun() && !over(s)) {
		if s != nil && s.GetNumber() >= back.GetNumber() {
			back = proto.CloneOf(back)
			back.Number = s.GetNumber() + 1
		}
		l.back(r, back)
		return
	}
	if s != nil {
		if proto.Equal(s, r.lost) {
			l.tell(s) // it had been written, but the answer was lost
		}
		l.hold(r, s)
	} else if r.state != nil {
		// Somebody has removed the state: the run is over.
		delete(l.canaries, r.name)
	}
}

// tell tells the log, the metrics and hooks of a transition that was written. Of a request
// that was refused the log alone is told: nothing has changed. l.mu is held.
func (l *leading) tell(s *controlv1.RunState) {
	if why := requests.Refused(s); why != "" {
		l.log.Info("canary: a request was refused", slog.Bool("audit", true), slog.String("canary", s.GetName()),
			slog.Uint64("number", s.GetNumber()), slog.String("by", s.GetRefusal().GetAuthor()), slog.String("reason", why))
		return
	}
	l.log.Info("canary: transition", slog.Bool("audit", true), slog.String("canary", s.GetName()),
		slog.Uint64("run", s.GetRun()), slog.Uint64("number", s.GetNumber()), slog.String("phase", control.PhaseWord(s.GetPhase())),
		slog.Uint64("step", uint64(s.GetStep())), slog.Float64("weight", float64(s.GetWeight())/all),
		slog.String("by", s.GetBy()), slog.String("reason", s.GetReason()))
	l.o.Metrics.transition(l.service, s.GetName(), s.GetPhase())
	if doc, err := Document(s); err == nil {
		l.o.Hooks.Tell(doc.GetHooks(), &controlv1.Transition{State: s}, control.TransitionKey(control.Canary, l.service, s.GetName(), s.GetNumber()))
	}
}
