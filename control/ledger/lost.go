package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// askAgain is the pause after a question about a state that is not there any more which was
// not answered.
const askAgain = time.Second

// miss has it found out why the store has a state no more. Until then it is as it was: a
// watch may be behind. l.mu is held.
func (l *Ledger) miss(name string) {
	if l.missing[name] {
		return
	}
	l.missing[name] = true
	l.running.Go(func() {
		for {
			err := l.search(name)
			if err == nil {
				l.Signal()
				return
			}
			timer := time.NewTimer(askAgain/2 + rand.N(askAgain))
			select {
			case <-timer.C:
			case <-l.ctx.Done():
				timer.Stop()
				return
			}
		}
	})
}

// search finds out why the store has a state no more. Whoever removes a state leaves its
// history, in which each state has its entry. Where that is not there either, nobody has
// removed it: the store is another one, or came back without its data.
func (l *Ledger) search(name string) error {
	ctx, cancel := context.WithTimeout(l.ctx, storeTimeout)
	defer cancel()
	l.mu.Lock()
	old := l.entries[name].State
	l.mu.Unlock()
	now, err := l.book.Read(ctx, name)
	lost := false
	if err == nil && now.Version == 0 {
		if _, err = l.o.Store.Get(ctx, l.book.transitionKey(old, 0)); errors.Is(err, kv.ErrNotFound) {
			lost, err = true, nil
		}
	}
	if err != nil {
		return err
	}
	var written *controlv1.Transition
	l.mu.Lock()
	one := l.entries[name]
	switch {
	case one.State != old: // it was written meanwhile
	case now.Version != 0:
		written = l.take(name, now)
	case lost:
		l.o.Logger.Error("the store has lost a state, which holds nevertheless and is written again", slog.String("key", l.book.Key(name)))
		one.version, one.Lost = 0, true
		l.put(name, one)
	default:
		one.remember(old)
		one.request = old.GetRequest()
		one.State, one.version, one.Lost = nil, 0, false
		l.put(name, one)
	}
	delete(l.missing, name)
	l.stated = l.stated || len(l.missing) == 0
	l.mu.Unlock()
	if written != nil {
		l.tell(now.State, written)
	}
	return nil
}

// remember takes note of a state that was there.
func (e *Entry) remember(s *controlv1.RunState) {
	e.number, e.run = later(e.number, s.GetNumber()), later(e.run, s.GetRun())
}

func later(a, b uint64) uint64 {
	if control.After(b, a) {
		return b
	}
	return a
}

// number gives a state that is to be written the number that comes after all that are
// known, and a run that follows no state the same. Of states that were removed the history
// tells.
func (l *Ledger) number(ctx context.Context, from Entry, next *controlv1.RunState) error {
	l.mu.Lock()
	one := l.entries[from.Name]
	l.mu.Unlock()
	if from.State == nil && !one.searched {
		last, err := l.book.last(ctx, from.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", l.o.Store.Describe(), err)
		}
		l.mu.Lock()
		one = l.entries[from.Name]
		one.remember(last)
		one.searched = true
		l.put(from.Name, one)
		l.mu.Unlock()
	}
	if n := later(one.number, from.State.GetNumber()); !control.After(next.GetNumber(), n) || next.GetNumber() > control.MaxNumber {
		next.Number = control.Next(n)
	}
	if from.State == nil && next.GetRun() != 0 && !control.After(next.GetRun(), one.run) {
		next.Run = control.Next(one.run)
	}
	return nil
}

// Restored returns the state that is to be written again in place of one that the store has
// lost: by is who writes it. Who asks for something after the store lost its requests
// counts them from 1 again, and is answered.
func (e *Entry) Restored(by string) *controlv1.RunState {
	s := proto.CloneOf(e.State)
	s.Reason, s.By, s.Since = documents.Line("the store had lost it; before that: "+s.GetReason()), by, timestamppb.Now()
	if n := e.Request.GetNumber(); control.After(s.GetRequest(), n) {
		s.Request = max(n, 1) - 1
	}
	return s
}
