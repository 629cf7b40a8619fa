package consul

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
)

// storePause bounds the pause between changes of what is watched: a change of a mesh is
// everywhere within a second.
const storePause = 200 * time.Millisecond

// Watch implements kv.Store.
func (s *Store) Watch(ctx context.Context, prefix string, update func(kv.State)) {
	if kv.Refused(ctx, prefix, update) {
		return
	}
	w := s.join(prefix) //nolint:contextcheck // the query outlives this watch where others share it
	defer s.leave(w)
	tell, cancel := w.subscribe()
	defer cancel()

	seen := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tell:
		}
		if state, version := w.current(); version != seen && ctx.Err() == nil {
			seen = version
			update(state)
		}
	}
}

// watchedPrefix is a prefix that is watched, and its query.
type watchedPrefix struct {
	store    *Store
	prefix   string
	watchers int // under Store.mu
	stop     context.CancelFunc
	done     chan struct{}
	// highest is the index of what was handed over last, and permitted says that the token
	// may see that there is nothing; both of the query's alone.
	highest   uint64
	permitted bool

	mu      sync.Mutex // guards what follows
	state   kv.State
	version int // of state; 0: nothing is known, nor why
	tell    map[chan struct{}]struct{}
}

func (s *Store) join(prefix string) *watchedPrefix {
	s.mu.Lock()
	defer s.mu.Unlock()

	w := s.watching[prefix]
	if w == nil {
		w = &watchedPrefix{store: s, prefix: prefix, done: make(chan struct{}), tell: map[chan struct{}]struct{}{}}
		s.watching[prefix] = w
		var ctx context.Context
		ctx, w.stop = context.WithCancel(context.Background())
		go w.run(ctx)
	}
	w.watchers++

	return w
}

// leave ends a watch, and waits for the query's end if it was the last.
func (s *Store) leave(w *watchedPrefix) {
	s.mu.Lock()
	w.watchers--
	last := w.watchers == 0
	if last {
		delete(s.watching, w.prefix)
	}
	s.mu.Unlock()

	if last {
		w.stop()
		<-w.done
	}
}

func (w *watchedPrefix) subscribe() (tell chan struct{}, cancel func()) {
	tell = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()

	w.tell[tell] = struct{}{}
	if w.version > 0 {
		tell <- struct{}{}
	}

	return tell, func() {
		w.mu.Lock()
		defer w.mu.Unlock()

		delete(w.tell, tell)
	}
}

func (w *watchedPrefix) current() (kv.State, int) {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.state, w.version
}

// change hands over what is known now, if that is news.
func (w *watchedPrefix) change(change func(*kv.State)) {
	w.mu.Lock()
	defer w.mu.Unlock()

	state := w.state
	change(&state)
	if w.version > 0 && sameStates(w.state, state) {
		return
	}
	w.state = state
	w.version++
	for tell := range w.tell {
		select {
		case tell <- struct{}{}:
		default: // it was told already, and has not looked yet
		}
	}
}

func sameStates(a, b kv.State) bool {
	return a.Known == b.Known && (a.Err == nil) == (b.Err == nil) && (a.Err == nil || kindOf(a.Err) == kindOf(b.Err)) &&
		slices.EqualFunc(a.Entries, b.Entries, func(a, b kv.Entry) bool { return a.Key == b.Key && a.Version == b.Version })
}

func (w *watchedPrefix) run(ctx context.Context) {
	defer close(w.done)
	var polling sync.WaitGroup
	defer polling.Wait()
	agent := w.store.agent
	defer agent.troubles.forget(w.scope())
	answers := make(chan answer[[]kv.Entry])
	poller := &poller[[]kv.Entry]{agent: agent, out: answers, most: storePause, ask: w.ask}
	polling.Go(func() { poller.run(ctx) })

	rotation := agent.tokens.ticker()
	defer rotation.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			w.take(a)
		case <-rotation.C:
			// A query that waits does so with the token that it began with.
			agent.tokens.current()
		}
	}
}

// take takes an answer of the query's.
func (w *watchedPrefix) take(a answer[[]kv.Entry]) {
	switch {
	case a.err != nil:
		if err := failureOf(a.err, a.failures); err != nil {
			w.change(func(s *kv.State) { s.Err = err })
		}
	case a.lagging:
		w.change(func(s *kv.State) {
			s.Err = errLagging
			if !s.Known {
				s.Entries, s.Known = a.value, true
			}
		})
	default:
		w.change(func(s *kv.State) { *s = kv.State{Entries: a.value, Known: true} })
	}
}

func (w *watchedPrefix) scope() string { return "keys below " + w.prefix }

// ask asks once. An answer that may be older than what was handed over is not believed:
// the question is asked again, consistently. (Consul counts a prefix's index down when it
// forgets a deletion, so that is not always what it looks like.)
func (w *watchedPrefix) ask(ctx context.Context, options *api.QueryOptions) asked[[]kv.Entry] {
	agent := w.store.agent
	ctx = here(ctx, alteration{})
	entries, meta, err := w.store.list(w.prefix, options.WithContext(ctx), !w.permitted)
	if err == nil && meta.LastIndex < w.highest && !lags(meta) {
		entries, meta, err = w.store.list(w.prefix, consistently(ctx), true)
	}
	w.permitted = err == nil && len(entries) == 0
	if err != nil {
		failure := agent.explain(err, belowText(w.prefix), belowRules(w.prefix)...)
		if !errors.Is(ctx.Err(), context.Canceled) {
			agent.note(w.scope(), failure)
		}

		return asked[[]kv.Entry]{err: failure}
	}
	agent.noteSuccess(w.scope())
	lagging := lags(meta)
	if !lagging {
		w.highest = meta.LastIndex
	}

	return asked[[]kv.Entry]{value: entries, index: meta.LastIndex, lagging: lagging}
}
