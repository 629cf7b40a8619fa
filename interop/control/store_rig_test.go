package control

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/control/kv"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/registry/consul"
)

func must(t testing.TB, err error) {
	t.Helper()

	if err != nil {
		t.Fatal(err)
	}
}

// storeLog is what a store has logged.
type storeLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *storeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	return l.text.Write(p)
}

func (l *storeLog) lines(with string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()

	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, with) {
			found = append(found, line)
		}
	}

	return found
}

// openStore opens an agent's KV as a process of its own would.
func openStore(t testing.TB, agent *agents.Agent, cfg consul.Config, transport http.RoundTripper) (*consul.Store, *storeLog) {
	t.Helper()

	log := &storeLog{}
	cfg.Address = agent.Address
	store, err := consul.NewStore(cfg, consul.Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Transport: transport})
	must(t, err)
	t.Cleanup(func() {
		store.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the store logged:\n%s", strings.Join(log.lines(""), ""))
		}
	})

	return store, log
}

// cuttable is a way to an agent that can be cut.
type cuttable struct {
	base *http.Transport

	mu      sync.Mutex
	cut     bool
	pending map[int]context.CancelFunc
	next    int
}

func newCuttable(t testing.TB) *cuttable {
	c := &cuttable{base: &http.Transport{}, pending: map[int]context.CancelFunc{}}
	t.Cleanup(func() {
		c.set(true)
		c.base.CloseIdleConnections()
	})

	return c
}

func (c *cuttable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.cut = cut
	if cut {
		for _, cancel := range c.pending {
			cancel()
		}
		clear(c.pending)
	}
}

func (c *cuttable) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	if c.cut {
		c.mu.Unlock()

		return nil, errors.New("cut off")
	}
	ctx, cancel := context.WithCancel(req.Context())
	c.pending[c.next] = cancel
	c.next++
	c.mu.Unlock()

	return c.base.RoundTrip(req.WithContext(ctx))
}

// storeWatch is a watch, and what it has handed over.
type storeWatch struct {
	mu     sync.Mutex
	states []kv.State
	stop   func()
}

func watchStore(t testing.TB, store kv.Store, prefix string) *storeWatch {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	w, ended := &storeWatch{}, make(chan struct{})
	go func() {
		defer close(ended)
		store.Watch(ctx, prefix, func(state kv.State) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.states = append(w.states, state)
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(w.stop)

	return w
}

func (w *storeWatch) all() []kv.State {
	w.mu.Lock()
	defer w.mu.Unlock()

	return append([]kv.State(nil), w.states...)
}

// await waits until what was handed over last is so.
func (w *storeWatch) await(t testing.TB, what string, ok func(kv.State) bool) kv.State {
	t.Helper()

	var last kv.State
	agents.Eventually(t, what, func() bool {
		all := w.all()
		if len(all) == 0 {
			return false
		}
		last = all[len(all)-1]

		return ok(last)
	})

	return last
}

// valueIn is a key's value in a state, "-" where it is not there.
func valueIn(state kv.State, key string) string {
	for _, e := range state.Entries {
		if e.Key == key {
			return string(e.Value)
		}
	}

	return "-"
}
