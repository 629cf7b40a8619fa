package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// storeTimeout bounds each question to the store.
	storeTimeout = 5 * time.Second
	// keptTransitions is how many transitions of a history are kept.
	keptTransitions = 1000
	// MaxBytes is how long a document may be, and what comes of it, each: they are written
	// at once, in base64.
	MaxBytes = kv.MaxCommit / 3
)

// Options are what a Ledger needs.
type Options struct {
	Store   kv.Store
	Kind    control.Kind
	Service string
	// Changed is told, from any goroutine, when Entries may have changed; it must not
	// block.
	Changed func()
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
	watches sync.WaitGroup

	mu      sync.Mutex
	served  bool // documents and requests are known
	stated  bool // states are known
	entries map[string]Entry
}

// Open returns a Ledger that follows the store until ctx ends.
func Open(ctx context.Context, o Options) *Ledger {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{o: o, entries: map[string]Entry{}}
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
	l.mu.Lock()
	l.served = true
	found := map[string]Entry{}
	for _, e := range s.Entries {
		kind, name, request, ok := control.ParseServiceKey(l.o.Service, e.Key)
		if !ok || kind != l.o.Kind {
			continue
		}
		one := found[name]
		if request {
			one.Request = l.request(e)
		} else {
			one.Document, one.Problem = documents.Decode(documents.ID{Kind: kind, Name: name}, e.Value)
		}
		found[name] = one
	}
	for name, old := range l.entries {
		now := found[name]
		old.Document, old.Problem, old.Request = now.Document, now.Problem, now.Request
		l.put(name, old)
		delete(found, name)
	}
	for name, now := range found {
		l.put(name, now)
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

func (l *Ledger) request(e kv.Entry) *controlv1.Request {
	r := &controlv1.Request{}
	if err := unmarshal.Unmarshal(e.Value, r); err != nil {
		l.o.Logger.Warn("a request cannot be read", "key", e.Key, "error", err)
		return nil
	}
	return r
}

func (l *Ledger) takeStates(s kv.State) {
	if !s.Known {
		return
	}
	l.mu.Lock()
	l.stated = true
	found := map[string]kv.Entry{}
	for _, e := range s.Entries {
		if name, ok := l.stateName(e.Key); ok {
			found[name] = e
		}
	}
	for name, old := range l.entries {
		if _, ok := found[name]; !ok {
			old.State, old.version = nil, 0
			l.put(name, old)
		}
	}
	for name, e := range found {
		l.takeState(name, e, false)
	}
	l.mu.Unlock()
	l.o.Changed()
}

// takeState takes over a state that was read. A watch may be behind what was written
// here: then what is asked for is true. l.mu is held.
func (l *Ledger) takeState(name string, e kv.Entry, asked bool) {
	state := &controlv1.RunState{}
	if err := unmarshal.Unmarshal(e.Value, state); err != nil || state.GetName() != name || state.GetService() != l.o.Service ||
		state.GetKind() != string(l.o.Kind) {
		l.o.Logger.Warn("a state cannot be read, and counts as none", "key", e.Key, "error", err)
		state = nil
	}
	one := l.entries[name]
	if !asked && state.GetNumber() < one.State.GetNumber() {
		return
	}
	one.State, one.version = state, e.Version
	l.put(name, one)
}

func (l *Ledger) stateName(key string) (string, bool) {
	prefix := control.StateKey(l.o.Kind, l.o.Service, "")
	if len(key) <= len(prefix) || key[:len(prefix)] != prefix {
		return "", false
	}
	return key[len(prefix):], true
}

var unmarshal = protojson.UnmarshalOptions{DiscardUnknown: true}

// ErrChanged says that the state is not the one that was known: another has written it.
// What is true is known then.
var ErrChanged = errors.New("the state was changed by another")

// Commit writes the state that follows the one of an entry, with its entry in the
// history, of which results may be nil. It fills in what all states have: kind, name,
// service, number and since. It returns the transition, which has no document in it, and
// its key, once it is written.
//
// After ErrChanged nothing was written; after any other error it is not known, and is
// found out by the next Commit of the same name.
func (l *Ledger) Commit(ctx context.Context, from Entry, next *controlv1.RunState, results []byte) (*controlv1.Transition, string, error) {
	next = proto.CloneOf(next)
	next.Kind, next.Name, next.Service = string(l.o.Kind), from.Name, l.o.Service
	next.Number = from.State.GetNumber() + 1
	if next.GetSince() == nil {
		next.Since = timestamppb.Now()
	}
	transition := &controlv1.Transition{State: proto.CloneOf(next), Results: results}
	transition.State.Document = nil // it is in the history of documents, by its revision
	state, err := protojson.Marshal(next)
	if err != nil {
		return nil, "", err
	}
	history, err := protojson.Marshal(transition)
	if err != nil {
		return nil, "", err
	}
	stateKey := control.StateKey(l.o.Kind, l.o.Service, from.Name)
	key := control.TransitionKey(l.o.Kind, l.o.Service, from.Name, next.GetNumber())
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ops := []kv.Op{
		{Key: stateKey, Value: state, Version: from.version},
		{Key: key, Value: history, Any: true}, // one that is there is of states that were deleted
	}
	if n := next.GetNumber(); n > keptTransitions {
		ops = append(ops, kv.Op{Key: control.TransitionKey(l.o.Kind, l.o.Service, from.Name, n-keptTransitions), Any: true})
	}
	err = l.o.Store.Commit(ctx, ops...)
	// What the state's version is now only reading tells, and whether it was written where
	// the answer was lost.
	now, readErr := l.read(ctx, from.Name, stateKey)
	switch {
	case readErr == nil && proto.Equal(now, next):
		l.audit(next)
		return transition, key, nil
	case err == nil && readErr != nil:
		l.audit(next)
		l.assume(from.Name, next)
		return transition, key, nil
	case err == nil, errors.As(err, new(*kv.ConflictError)):
		return nil, "", ErrChanged
	}
	return nil, "", fmt.Errorf("%s: %w", l.o.Store.Describe(), err)
}

// read reads a state anew.
func (l *Ledger) read(ctx context.Context, name, key string) (*controlv1.RunState, error) {
	e, err := l.o.Store.Get(ctx, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, kv.ErrNotFound):
		one := l.entries[name]
		one.State, one.version = nil, 0
		l.put(name, one)
		return nil, nil
	case err != nil:
		return nil, err
	}
	l.takeState(name, e, true)
	return l.entries[name].State, nil
}

// assume takes over a state that was written, but whose version is not known: the next
// Commit fails with ErrChanged, and learns it.
func (l *Ledger) assume(name string, state *controlv1.RunState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.entries[name]
	one.State = state
	l.put(name, one)
}

// audit writes the line that every transition has.
func (l *Ledger) audit(s *controlv1.RunState) {
	l.o.Logger.Info("transition", slog.Bool("audit", true), slog.String("kind", s.GetKind()), slog.String("name", s.GetName()),
		slog.String("service", s.GetService()), slog.Uint64("run", s.GetRun()), slog.Uint64("number", s.GetNumber()),
		slog.String("phase", s.GetPhase().String()), slog.String("by", s.GetBy()), slog.String("reason", s.GetReason()))
}
