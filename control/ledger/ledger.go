package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// storeTimeout bounds each question to the store.
const storeTimeout = 5 * time.Second

// Options are what a Ledger needs.
type Options struct {
	Store   kv.Store
	Kind    control.Kind
	Service string
	// Changed is told, from any goroutine, when Entries may have changed; it must not
	// block.
	Changed func()
	// Written is told, from any goroutine, of each transition that this ledger has written,
	// once that is known: also where the store's answer was lost. state has its document,
	// transition and the key that it is under are the history's. Nil: nobody is told.
	Written func(state *controlv1.RunState, transition *controlv1.Transition, key string)
	Logger  *slog.Logger
}

// Entry is what is known of one canary or experiment.
type Entry struct {
	Name string
	// Document is the one that there is now, as it was written; nil: there is none. Problem
	// says why it cannot be used.
	Document *controlv1.Document
	Problem  error
	// Request is the last that was asked; nil: nothing was.
	Request *controlv1.Request
	// State is where it stands; nil: it never ran.
	State *controlv1.RunState

	version uint64 // of the state's key; 0: there is none
}

// Pending says whether something was asked that is not done yet.
func (e *Entry) Pending() bool {
	return e.Request != nil && e.Request.GetNumber() > e.State.GetRequest()
}

// Ledger is made by Open.
type Ledger struct {
	o       Options
	book    Book
	watches sync.WaitGroup

	mu      sync.Mutex
	served  bool // documents and requests are known
	stated  bool // states are known
	entries map[string]Entry
	// writing is, by name, what is being written, or may have been.
	writing map[string]*controlv1.Transition
}

// Open returns a Ledger that follows the store until ctx ends.
func Open(ctx context.Context, o Options) *Ledger {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Written == nil {
		o.Written = func(*controlv1.RunState, *controlv1.Transition, string) {}
	}
	l := &Ledger{
		o: o, book: Book{Store: o.Store, Kind: o.Kind, Service: o.Service},
		entries: map[string]Entry{}, writing: map[string]*controlv1.Transition{},
	}
	l.watches.Go(func() { o.Store.Watch(ctx, control.ServicePrefix(o.Service), l.takeDocuments) })
	l.watches.Go(func() { o.Store.Watch(ctx, control.StatePrefix(o.Service), l.takeStates) })
	return l
}

// Wait waits until the store is not followed any more.
func (l *Ledger) Wait() { l.watches.Wait() }

// Entries returns all that is known; false: the store has not said all yet.
func (l *Ledger) Entries() (map[string]Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.entries), l.served && l.stated
}

func (l *Ledger) takeDocuments(s kv.State) {
	if !s.Known {
		return
	}
	found := l.book.Asked(s.Entries, l.o.Logger)
	l.mu.Lock()
	l.served = true
	for name, old := range l.entries {
		now := found[name]
		old.Document, old.Problem, old.Request = now.Document, now.Problem, now.Request
		l.put(name, old)
		delete(found, name)
	}
	for name, now := range found {
		l.put(name, Entry{Document: now.Document, Problem: now.Problem, Request: now.Request})
	}
	l.mu.Unlock()
	l.o.Changed()
}

// put keeps an entry that says something. l.mu is held.
func (l *Ledger) put(name string, e Entry) {
	e.Name = name
	if e.Document == nil && e.Problem == nil && e.Request == nil && e.version == 0 {
		delete(l.entries, name)
		return
	}
	l.entries[name] = e
}

func (l *Ledger) takeStates(s kv.State) {
	if !s.Known {
		return
	}
	pages := l.book.pages(s.Entries)
	l.mu.Lock()
	l.stated = true
	for name, old := range l.entries {
		if _, ok := pages[name]; !ok {
			old.State, old.version = nil, 0
			l.put(name, old)
		}
	}
	var told []*controlv1.Transition
	for name, p := range pages {
		if p.State.GetNumber() < l.entries[name].State.GetNumber() {
			continue // a watch may be behind what was written here
		}
		if t := l.take(name, p); t != nil {
			told = append(told, t)
		}
	}
	states := maps.Clone(l.entries)
	l.mu.Unlock()
	for _, t := range told {
		l.tell(states[t.GetState().GetName()].State, t)
	}
	l.o.Changed()
}

// take takes over what the store has of a state, and returns the transition that was
// written with it, if that is to be told of: it was written here, and that is known only
// now. l.mu is held.
func (l *Ledger) take(name string, p Page) *controlv1.Transition {
	if p.Problem != nil {
		l.o.Logger.Warn("a state cannot be read, and counts as none", "key", l.book.Key(name), "error", p.Problem)
	}
	one := l.entries[name]
	one.State, one.version = p.State, p.Version
	l.put(name, one)
	t := l.writing[name]
	if t == nil || p.State.GetNumber() < t.GetState().GetNumber() {
		return nil
	}
	delete(l.writing, name)
	if !proto.Equal(transition(p.State, nil).GetState(), t.GetState()) {
		return nil
	}
	return t
}

// ErrChanged says that the state is not the one that was known: another has written it.
// What is true is known then.
var ErrChanged = errors.New("the state was changed by another")

// Commit writes the state that follows the one of an entry, with its entry in the
// history, of which results may be nil. It fills in what all states have: kind, name,
// service, number and since.
//
// After ErrChanged nothing was written; after any other error it is not known, and is
// found out by the next Commit of the same name, or by following the store. See
// [Options].Written.
func (l *Ledger) Commit(ctx context.Context, from Entry, next *controlv1.RunState, results []byte) error {
	next = proto.CloneOf(next)
	next.Kind, next.Name, next.Service = string(l.o.Kind), from.Name, l.o.Service
	next.Number = from.State.GetNumber() + 1
	if next.GetSince() == nil {
		next.Since = timestamppb.Now()
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := l.reread(ctx, from); err != nil {
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
	message, by, reason := "transition", s.GetBy(), s.GetReason()
	if why := requests.Refused(s); why != "" {
		message, by, reason = "a request was refused", s.GetRefusal().GetAuthor(), why
	}
	l.o.Logger.Info(message, slog.Bool("audit", true), slog.String("kind", s.GetKind()), slog.String("name", s.GetName()),
		slog.String("service", s.GetService()), slog.Uint64("run", s.GetRun()), slog.Uint64("number", s.GetNumber()),
		slog.String("phase", control.PhaseWord(s.GetPhase())), slog.String("by", by), slog.String("reason", reason))
	l.o.Written(s, t, l.book.transitionKey(s, 0))
}
