package ledger

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// storeTimeout bounds each question to the store.
const storeTimeout = 5 * time.Second

// Options are what a Ledger needs.
type Options struct {
	Store   kv.Store
	Kind    control.Kind
	Service string
	// Known returns the states of the service that this sidecar obeys, for where the store
	// has lost them; nil: it obeys none.
	Known func(service string) []*controlv1.RunState
	// Written is told, from any goroutine, of each transition that this ledger has written,
	// once that is known: also where the store's answer was lost. state has its document,
	// transition and the key that it is under are the history's. Nil: nobody is told.
	Written func(state *controlv1.RunState, transition *controlv1.Transition, key string)
	// Logger says of itself which service it is about.
	Logger *slog.Logger
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
	// State is where it stands; nil: it never ran, or somebody has removed it.
	State *controlv1.RunState
	// Lost says that the store has it no more, or something that cannot be read, though
	// nobody has removed it. It holds nevertheless; see Restored.
	Lost bool

	version uint64 // of the state's key; 0: there is none
	// Behind says that sidecars go by later numbers than the one of State, which was begun
	// here: by those of a run that the store has lost. See Ahead.
	Behind bool
	// Fresh says that State was begun here where nothing was known before, and what came of
	// it since.
	Fresh bool

	// number and run are the highest that are known of states that were there before.
	number, run uint64
	request     uint64 // what was done of the requests that are there, before a state was removed
	searched    bool   // the history was asked for them
}

// Pending says whether something was asked that is not done yet.
func (e *Entry) Pending() bool {
	return control.After(e.Request.GetNumber(), later(e.request, e.State.GetRequest()))
}

// Ledger is made by Open.
type Ledger struct {
	o       Options
	ctx     context.Context
	book    Book
	cancel  context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{}

	mu      sync.Mutex
	served  bool // documents and requests are known
	stated  bool // states are known
	away    error
	entries map[string]Entry
	heard   map[string]*meshv1.Heard // what sidecars go by, by name
	missing map[string]bool          // it is being found out why the store has them no more
	// writing is, by name, what is being written, or may have been.
	writing map[string]*controlv1.Transition
}

// Open returns a Ledger that follows the store until ctx ends. It is to be closed.
func Open(ctx context.Context, o Options) *Ledger {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Written == nil {
		o.Written = func(*controlv1.RunState, *controlv1.Transition, string) {}
	}
	l := &Ledger{
		o: o, wake: make(chan struct{}, 1), book: Book{Store: o.Store, Kind: o.Kind, Service: o.Service},
		entries: map[string]Entry{}, heard: map[string]*meshv1.Heard{}, missing: map[string]bool{}, writing: map[string]*controlv1.Transition{},
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.running.Go(func() { o.Store.Watch(l.ctx, control.ServicePrefix(o.Service), l.takeDocuments) })
	l.running.Go(func() { o.Store.Watch(l.ctx, control.StatePrefix(o.Service), l.takeStates) })
	return l
}

// Close ends it, and waits for what was begun by Go. What is being written then may still
// be, for a moment.
func (l *Ledger) Close() {
	l.cancel()
	l.running.Wait()
}

// Go does something until Close, which waits for it.
func (l *Ledger) Go(do func()) { l.running.Go(do) }

// Context ends when nobody is to decide by the ledger any more.
func (l *Ledger) Context() context.Context { return l.ctx }

// Wake has one whenever Entries or Away may say something else, or after Signal.
func (l *Ledger) Wake() <-chan struct{} { return l.wake }

// Signal wakes who waits for Wake.
func (l *Ledger) Signal() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already, or about to be
	}
}

// Entries returns all that is known; false: the store has not said all yet.
func (l *Ledger) Entries() (map[string]Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.entries), l.served && l.stated
}

// Away says why the store cannot be asked; nil: it can, as far as is known.
func (l *Ledger) Away() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

func (l *Ledger) takeDocuments(s kv.State) {
	found := l.book.asked(s.Entries, l.o.Logger)
	l.mu.Lock()
	l.away = s.Err
	if !s.Known {
		l.mu.Unlock()
		l.Signal()
		return
	}
	l.served = true
	for name, old := range l.entries {
		now := found[name]
		old.Document, old.Problem, old.Request = now.Document, now.Problem, now.Request
		if now.Request == nil {
			old.request = 0 // they are counted from 1 again
		}
		l.put(name, old)
		delete(found, name)
	}
	for name, now := range found {
		l.put(name, now)
	}
	l.mu.Unlock()
	l.Signal()
}

// put keeps an entry that says something. l.mu is held.
func (l *Ledger) put(name string, e Entry) {
	e.Name = name
	if e.Document == nil && e.Problem == nil && e.Request == nil && e.State == nil && e.version == 0 && e.number == 0 {
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
	first := !l.stated && len(l.missing) == 0
	l.mu.Unlock()
	var known []*controlv1.RunState
	if first && l.o.Known != nil {
		known = l.o.Known(l.o.Service)
	}
	l.mu.Lock()
	for _, state := range known {
		if one := l.entries[state.GetName()]; one.State == nil && Check(state) == nil {
			one.State = state
			l.put(state.GetName(), one)
		}
	}
	var told []*controlv1.Transition
	for name, p := range pages {
		if one := l.entries[name]; one.version != 0 && control.After(one.State.GetNumber(), p.State.GetNumber()) && p.Problem == nil {
			l.miss(name) // a watch may be behind what was written here, or the store was set back
			continue
		}
		if t := l.take(name, p); t != nil {
			told = append(told, t)
		}
	}
	for name, old := range l.entries {
		if _, ok := pages[name]; !ok && old.State != nil && (!old.Lost || old.version != 0) {
			l.miss(name)
		}
	}
	l.stated = l.stated || len(l.missing) == 0
	states := maps.Clone(l.entries)
	l.mu.Unlock()
	for _, t := range told {
		l.tell(states[t.GetState().GetName()].State, t)
	}
	l.Signal()
}

// take takes over what the store has of a state, and returns the transition that was
// written with it, if that is to be told of: it was written here, and that is known only
// now. l.mu is held.
func (l *Ledger) take(name string, p Page) *controlv1.Transition {
	one := l.entries[name]
	switch {
	case p.Problem != nil:
		if one.version != p.Version {
			l.o.Logger.Warn("a state cannot be read, and is written anew", "key", l.book.Key(name), "error", p.Problem)
		}
		one.version, one.Lost = p.Version, one.State != nil
	case p.State == nil && one.State != nil:
		l.miss(name)
		return nil
	default:
		if one.State != nil {
			one.remember(one.State) // where the store was set back, it is the later one
		}
		one.State, one.version, one.Lost = p.State, p.Version, false
	}
	l.put(name, one)
	t := l.writing[name]
	if t == nil || control.After(t.GetState().GetNumber(), p.State.GetNumber()) {
		return nil
	}
	delete(l.writing, name)
	if !proto.Equal(transition(p.State, nil).GetState(), t.GetState()) {
		return nil
	}
	return t
}
