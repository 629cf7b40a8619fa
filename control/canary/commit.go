package canary

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// keptTransitions is how many transitions of a canary's history are kept.
	keptTransitions = 1000
	// grace is how long a commit that was begun may still take when this one is no longer
	// elected.
	grace = 500 * time.Millisecond
)

// written is what came of a commit.
type written struct {
	// entry is what the store has of the canary's state; its version is 0 where it has none.
	entry kv.Entry
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
		var w written
		if want == nil {
			w = l.compare(ctx, control.StateKey(control.Canary, l.service, r.name), nil)
		} else {
			w = l.write(ctx, want, version, reload)
		}
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

// write writes a state with its transition if the store has the version of the state
// before. reload says that the version is not known.
func (l *leading) write(ctx context.Context, want *controlv1.RunState, version uint64, reload bool) written {
	key := control.StateKey(control.Canary, l.service, want.GetName())
	if reload {
		if w := l.compare(ctx, key, want); w.err != nil || w.ours || w.entry.Version != version {
			return w
		}
	}
	history := proto.CloneOf(want)
	history.Document = nil // it is in the history of documents, by its revision
	value, err := protojson.Marshal(want)
	if err != nil {
		return written{err: err}
	}
	entry, err := protojson.Marshal(&controlv1.Transition{State: history})
	if err != nil {
		return written{err: err}
	}
	transition := func(n uint64) string {
		return control.TransitionKey(control.Canary, l.service, want.GetName(), n)
	}
	ops := []kv.Op{{Key: key, Value: value, Version: version}, {Key: transition(want.GetNumber()), Value: entry, Any: true}}
	if n := want.GetNumber(); n > keptTransitions {
		ops = append(ops, kv.Op{Key: transition(n - keptTransitions), Any: true})
	}
	err = l.o.Store.Commit(ctx, ops...)
	if conflict := (*kv.ConflictError)(nil); err != nil && !errors.As(err, &conflict) {
		return written{err: err}
	}
	w := l.compare(ctx, key, want)
	if err == nil && w.err != nil {
		return written{ours: true} // of a version that is not known
	}
	return w
}

// compare reads a state and says whether it is what was to be written.
func (l *leading) compare(ctx context.Context, key string, want *controlv1.RunState) written {
	entry, err := l.o.Store.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return written{}
	}
	if err != nil {
		return written{err: err}
	}
	s, err := readState(entry)
	return written{entry: entry, ours: want != nil && err == nil && proto.Equal(s, want)}
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
		r.stored, r.version, r.reload = want, w.entry.Version, w.entry.Version == 0
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
	if w.entry.Version == r.version && r.want == nil {
		r.lost = nil // it was not written
		return
	}
	l.overtaken(r, w.entry)
}

// overtaken takes a state over that somebody else has written. A roll-back that is to be
// written still is, over it, if it is of the same run. l.mu is held.
func (l *leading) overtaken(r *led, e kv.Entry) {
	r.version = e.Version
	var s *controlv1.RunState
	if e.Version != 0 {
		var err error
		if s, err = readState(e); err != nil {
			l.log.Error("canary: a state in the store cannot be read, and is written anew", slog.String("key", e.Key), slog.Any("error", err))
			s = nil
		}
	}
	r.stored = s
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

// tell tells the log, the metrics and hooks of a transition that was written. l.mu is held.
func (l *leading) tell(s *controlv1.RunState) {
	l.log.Info("canary: transition", slog.Bool("audit", true), slog.String("canary", s.GetName()),
		slog.Uint64("run", s.GetRun()), slog.Uint64("number", s.GetNumber()), slog.String("phase", PhaseWord(s.GetPhase())),
		slog.Uint64("step", uint64(s.GetStep())), slog.Float64("weight", float64(s.GetWeight())/all),
		slog.String("by", s.GetBy()), slog.String("reason", s.GetReason()))
	l.o.Metrics.transition(l.service, s.GetName(), s.GetPhase())
	if doc, err := readDocument(s); err == nil {
		l.o.Hooks.Tell(doc.GetHooks(), &controlv1.Transition{State: s}, control.TransitionKey(control.Canary, l.service, s.GetName(), s.GetNumber()))
	}
}
