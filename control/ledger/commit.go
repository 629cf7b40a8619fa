package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// grace is how long a commit that was begun may still take when its sidecar is no longer
// elected.
const grace = 500 * time.Millisecond

// ErrChanged says that the state is not the one that was known: another has written it.
// What is true is known then, or in a moment.
var ErrChanged = errors.New("the state was changed by another")

// Commit writes the state that follows the one of an entry, with its entry in the
// history, of which results may be nil. It fills in what all states have: kind, name,
// service, number and since. A number that comes later than the next one is left as it is.
//
// After ErrChanged nothing was written; after any other error it is not known, and is
// found out by the next Commit of the same name, or by following the store. See
// [Options].Written.
func (l *Ledger) Commit(from Entry, next *controlv1.RunState, results []byte) error {
	next = proto.CloneOf(next)
	next.Kind, next.Name, next.Service = string(l.o.Kind), from.Name, l.o.Service
	if next.GetSince() == nil {
		next.Since = timestamppb.Now()
	}
	// What was begun is ended, in a moment: others see the last transition of a run, and end
	// this, before it is known here that it was written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), storeTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, func() { time.AfterFunc(grace, cancel) })()
	if err := l.reread(ctx, from); err != nil {
		return err
	}
	if err := l.number(ctx, from, next); err != nil {
		return err
	}
	l.mu.Lock()
	l.writing[from.Name] = transition(next, results)
	l.mu.Unlock()
	now, written, err := l.book.Write(ctx, next, from.version, results)
	if err != nil {
		return fmt.Errorf("%s: %w", l.o.Store.Describe(), err)
	}
	l.mu.Lock()
	if now.Version == 0 && written {
		// It is not known: the next Commit fails with ErrChanged, and learns it.
		now.Version = from.version
	}
	t := l.take(from.Name, now)
	delete(l.writing, from.Name)
	if one := l.entries[from.Name]; written && from.State == nil && one.number == 0 {
		one.Fresh = true
		l.put(from.Name, one)
	} else if written && from.Behind {
		one.Fresh = false
		l.put(from.Name, one)
	}
	l.look(from.Name)
	l.mu.Unlock()
	if t != nil {
		l.tell(next, t)
	}
	if !written {
		return ErrChanged
	}
	return nil
}

// reread finds out whether the transition before was written, where that is not known.
func (l *Ledger) reread(ctx context.Context, from Entry) error {
	l.mu.Lock()
	lost := l.writing[from.Name] != nil
	l.mu.Unlock()
	if !lost {
		return nil
	}
	now, err := l.book.Read(ctx, from.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", l.o.Store.Describe(), err)
	}
	l.mu.Lock()
	t := l.take(from.Name, now)
	delete(l.writing, from.Name)
	l.mu.Unlock()
	if t != nil {
		l.tell(now.State, t)
	}
	if now.Version != from.version {
		return ErrChanged
	}
	return nil
}

// tell tells of a transition that was written, and writes the line that every one has.
func (l *Ledger) tell(s *controlv1.RunState, t *controlv1.Transition) {
	what, by, reason := "transition", s.GetBy(), s.GetReason()
	if why := requests.Refused(s); why != "" {
		what, by, reason = "a request was refused", s.GetRefusal().GetAuthor(), why
	}
	attrs := []any{
		slog.Bool("audit", true), slog.String(s.GetKind(), s.GetName()),
		slog.Uint64("run", s.GetRun()), slog.Uint64("number", s.GetNumber()), slog.String("phase", control.PhaseWord(s.GetPhase())),
	}
	if l.o.Kind == control.Canary {
		attrs = append(attrs, slog.Uint64("step", uint64(s.GetStep())), slog.Float64("weight", float64(s.GetWeight())/10_000))
	}
	l.o.Logger.Info(s.GetKind()+": "+what, append(attrs, slog.String("by", by), slog.String("reason", reason))...)
	l.o.Written(s, t, l.book.transitionKey(s, 0))
}
