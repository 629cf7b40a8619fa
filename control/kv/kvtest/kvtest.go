// Package kvtest says what every kv.Store keeps, as tests that each of them passes.
package kvtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// Rig is one store with nothing in it, seen from two processes, or as if.
type Rig struct {
	A, B kv.Store
	// Lose has a session of A be lost as if it had not been renewed for long; nil: such
	// tests are left out.
	Lose func(t *testing.T, session kv.Session)
	// Break cuts A off from the store, mend ends that; nil: such tests are left out.
	Break func(t *testing.T) (mend func())
	// Expires is a TTL with which a session is lost soon enough for a test once A is cut
	// off; 0: such tests are left out.
	Expires time.Duration
}

// Case is one of the tests.
type Case struct {
	Name string
	Test func(t *testing.T, r Rig)
}

// Cases are all tests. Each wants a Rig of its own, and works in virtual time too.
func Cases() []Case {
	return slices.Concat(entryCases, watchCases, sessionCases)
}

// Run runs all tests.
func Run(t *testing.T, start func(t *testing.T) Rig) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.Test(t, start(t))
		})
	}
}

// patience is how long is waited for what has to happen.
const patience = 30 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok is.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// set writes a key whatever it has.
func set(t *testing.T, s kv.Store, key, value string) {
	t.Helper()
	must(t, s.Commit(t.Context(), kv.Op{Key: key, Value: []byte(value), Any: true}))
}

// get returns a key's value, "-" where it is not there.
func get(t *testing.T, s kv.Store, key string) string {
	t.Helper()
	entry, err := s.Get(t.Context(), key)
	if errors.Is(err, kv.ErrNotFound) {
		return "-"
	}
	must(t, err)
	if entry.Key != key || entry.Version == 0 {
		t.Fatalf("got %+v for %s", entry, key)
	}
	return string(entry.Value)
}

// version returns a key's version, 0 where it is not there.
func version(t *testing.T, s kv.Store, key string) uint64 {
	t.Helper()
	entry, err := s.Get(t.Context(), key)
	if errors.Is(err, kv.ErrNotFound) {
		return 0
	}
	must(t, err)
	return entry.Version
}

func equal(t *testing.T, what string, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

// watching is a watch, and what it has handed over.
type watching struct {
	mu     sync.Mutex
	states []kv.State
	busy   bool
	stop   func()
}

// watch begins a watch, which ends with the test, or by stop.
func watch(t *testing.T, s kv.Store, prefix string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w, ended := &watching{}, make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx, prefix, func(state kv.State) {
			w.mu.Lock()
			if w.busy {
				t.Error("two calls of update at once")
			}
			w.busy = true
			w.states = append(w.states, state)
			w.mu.Unlock()
			time.Sleep(time.Millisecond)
			w.mu.Lock()
			w.busy = false
			w.mu.Unlock()
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(w.stop)
	return w
}

// all is what was handed over.
func (w *watching) all() []kv.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.states)
}

// await waits for a state that is as it should.
func (w *watching) await(t *testing.T, what string, ok func(kv.State) bool) kv.State {
	t.Helper()
	var last kv.State
	eventually(t, what, func() bool {
		all := w.all()
		if len(all) == 0 {
			return false
		}
		last = all[len(all)-1]
		return ok(last)
	})
	return last
}

// value is a key's in a state, "-" where it is not there.
func value(state kv.State, key string) string {
	for _, e := range state.Entries {
		if e.Key == key {
			return string(e.Value)
		}
	}
	return "-"
}

// holds says that a key has a value, and that all is well.
func holds(key, want string) func(kv.State) bool {
	return func(s kv.State) bool { return s.Known && s.Err == nil && value(s, key) == want }
}

// session begins one of these options, which is closed at the end.
func session(t *testing.T, s kv.Store, o kv.SessionOptions) kv.Session {
	t.Helper()
	o.Name = t.Name()
	made, err := s.Session(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		if err := made.Close(context.Background()); err != nil {
			t.Errorf("session does not close: %v", err)
		}
	})
	return made
}

// ended says whether a session has.
func ended(s kv.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}
