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
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
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

// Ahead returns the state that is to be written in place of one that is behind, for
// sidecars to obey it: by is who writes it.
func (e *Entry) Ahead(by string) *controlv1.RunState {
	s := proto.CloneOf(e.State)
	s.Reason, s.By, s.Since = documents.Line("sidecars know of a later run, which the store had lost; before that: "+s.GetReason()), by, timestamppb.Now()
	return s
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
	one, heard := l.entries[from.Name], l.heardOf(from.Name, from.State)
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
	if n := later(later(one.number, heard.GetNumber()), from.State.GetNumber()); !control.After(next.GetNumber(), n) || next.GetNumber() > control.MaxNumber {
		next.Number = control.Next(n)
	}
	if run := later(one.run, heard.GetRun()); (from.State == nil || from.Behind) && next.GetRun() != 0 && !control.After(next.GetRun(), run) {
		next.Run = control.Next(run)
	}
	return nil
}

const (
	// maxHeard bounds the names that are kept of what sidecars go by, beside those of which
	// something is known here.
	maxHeard = 1024
	// maxAhead bounds how far numbers go on by what sidecars say.
	maxAhead = 1 << 20
)

// Heard takes what a sidecar says of the states that it goes by. A state of which the store
// knows nothing, nor does this sidecar, is not taken from others: who may report may not
// say what runs. But it is not counted from 1 again.
func (l *Ledger) Heard(all []*meshv1.Heard) {
	l.mu.Lock()
	behind := false
	for _, h := range all {
		last, is := l.heard[h.GetName()]
		_, known := l.entries[h.GetName()]
		if h.GetKind() != string(l.o.Kind) || !is && !known && len(l.heard) >= maxHeard {
			continue
		}
		number := h.GetNumber()
		if s := l.entries[h.GetName()].State; s.GetNumber() == number && !s.GetSince().AsTime().Equal(h.GetSince().AsTime()) {
			number++ // it is another state: the one that is known has to come after it
		}
		l.heard[h.GetName()] = &meshv1.Heard{Number: max(last.GetNumber(), number), Run: max(last.GetRun(), h.GetRun())}
		behind = l.look(h.GetName()) || behind
	}
	l.mu.Unlock()
	if behind {
		l.Signal()
	}
}

// heardOf returns what sidecars go by, as far as it is believed beside a state. l.mu is
// held.
func (l *Ledger) heardOf(name string, s *controlv1.RunState) *meshv1.Heard {
	h := l.heard[name]
	return &meshv1.Heard{
		Number: min(h.GetNumber(), s.GetNumber()+maxAhead, control.MaxNumber), Run: min(h.GetRun(), s.GetRun()+maxAhead, control.MaxNumber),
	}
}

// look finds out whether a state that was begun here is behind, and says so. l.mu is held.
func (l *Ledger) look(name string) bool {
	one := l.entries[name]
	behind := one.Fresh && control.After(l.heardOf(name, one.State).GetNumber(), one.State.GetNumber())
	if behind != one.Behind {
		one.Behind = behind
		l.put(name, one)
	}
	return behind
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
