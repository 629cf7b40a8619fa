package follow

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// askTimeout bounds each question about what is not there any more. askAgain is the
	// pause after one that was not answered; after an answer that it is lost it becomes
	// twice as long each time, up to askMost, since all sidecars ask.
	askTimeout = 5 * time.Second
	askAgain   = time.Second
	askMost    = 10 * time.Minute
)

// lostProblem is what people are told of a document that is lost.
const lostProblem = "the store has lost it, there is no history of it either, so it stays in force: apply it again (and delete it then, if nobody wants it)"

// absent is a document, or a state, that the store had and has not any more. Whoever
// deletes a document leaves its history. Without that, nobody has deleted it: the store is
// another, or came back without its data; and it stays in force, for an access policy that
// is lost should not let everybody in.
type absent struct {
	// trace is a key that is there if the store remembers it.
	trace string
	// gone says that it was taken away; lost, that the store knows nothing of it. Neither:
	// the store has not said yet.
	gone, lost bool
}

// part is a document, or its state.
type part struct {
	of      documents.ID
	isState bool
}

// stays says whether a document holds yet that the store has not any more, and asks about
// it. f.mu is held.
func (s *service) stays(key documents.ID) bool {
	return s.miss(part{of: key}, control.HistoryKey(key.Kind, key.Name, 1))
}

// stateStays is stays of a state.
func (s *service) stateStays(state *controlv1.RunState) bool {
	key := stateID(state)
	// Every state is written with a transition of its number, of which many are kept.
	return s.miss(part{key, true}, control.TransitionKey(key.Kind, s.name, key.Name, state.GetNumber()))
}

func stateID(state *controlv1.RunState) documents.ID {
	return documents.ID{Kind: control.Kind(state.GetKind()), Name: state.GetName()}
}

func (s *service) miss(p part, trace string) bool {
	if a := s.absent[p]; a != nil {
		return !a.gone
	}
	s.absent[p] = &absent{trace: trace}
	if !s.asking {
		s.asking = true
		s.f.watching.Go(func() { s.ask(s.ctx) })
		return true
	}
	select {
	case s.askNow <- struct{}{}:
	default: // it is told already
	}
	return true
}

// found forgets what was absent, and is there. f.mu is held.
func (s *service) found(p part) { delete(s.absent, p) }

// problemOf says that a document is lost. f.mu is held.
func (s *service) problemOf(key documents.ID) string {
	if a := s.absent[part{of: key}]; a != nil && a.lost {
		return lostProblem
	}
	return ""
}

// ask asks the store about what is absent, until that is clear.
func (s *service) ask(ctx context.Context) {
	for pause := askAgain; ; {
		s.f.mu.Lock()
		open := maps.Clone(s.absent)
		maps.DeleteFunc(open, func(_ part, a *absent) bool { return a.gone })
		if len(open) == 0 {
			s.asking = false
			s.f.mu.Unlock()
			return
		}
		s.f.mu.Unlock()
		pause = min(2*pause, askMost)
		for p, a := range open {
			remembers, err := s.remembers(ctx, a.trace)
			if err != nil {
				pause = askAgain
				continue
			}
			s.settleAbsent(p, a, remembers)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.askNow:
			timer.Stop()
			pause = askAgain
		case <-timer.C:
		}
	}
}

// settleAbsent takes down what the store says of what is absent.
func (s *service) settleAbsent(p part, a *absent, remembers bool) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.absent[p] != a || a.lost && !remembers {
		return // it is back, or that is no news
	}
	a.gone, a.lost = remembers, !remembers
	if p.isState && remembers {
		s.states = slices.DeleteFunc(slices.Clone(s.states), func(state *controlv1.RunState) bool { return stateID(state) == p.of })
	}
	if a.lost {
		s.f.o.Logger.Error("the store has lost what it held, and no history of it is there either: it stays in force as it was",
			"store", s.f.o.Store.Describe(), "service", s.name, "document", p.of.String(), "state", p.isState)
	}
	s.f.signal()
}

// remembers says whether a key is there. Where that may not be looked at, a store that
// holds any documents at all is taken for one that remembers.
func (s *service) remembers(ctx context.Context, trace string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := s.f.o.Store.Get(ctx, trace)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, kv.ErrNotFound):
		return false, nil
	case !errors.Is(err, kv.ErrDenied):
		return false, err
	}
	all, err := s.f.o.Store.List(ctx, control.Root+"services/")
	return len(all) > 0, err
}
