package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// fakeKV answers for Consul's KV as several servers do, of which all but the first, the
// leader, may be behind.
type fakeKV struct {
	mu      sync.Mutex
	changed chan struct{}
	index   uint64
	// states are all that there were, in order.
	states   []kvState
	servers  []int // which state each of them has
	random   *rand.Rand
	fault    func(*http.Request) (*http.Response, error)
	requests []fakeRequest
	waiting  int
	most     int
	sessions map[string]bool
}

// kvState is one state: keys, their versions, and deletions that are remembered.
type kvState struct {
	keys, tombstones map[string]uint64
	index            uint64 // of all
}

func (s kvState) String() string {
	text := ""
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		text += fmt.Sprintf("%s@%d ", key, s.keys[key])
	}

	return text
}

// below is what is below a prefix, and the index that Consul gives it.
func (s kvState) below(prefix string) (found kvState, index uint64) {
	found.keys = map[string]uint64{}
	for key, version := range s.keys {
		if strings.HasPrefix(key, prefix) {
			found.keys[key] = version
			index = max(index, version)
		}
	}
	for key, version := range s.tombstones {
		if strings.HasPrefix(key, prefix) {
			index = max(index, version)
		}
	}
	if index == 0 {
		index = s.index
	}

	return found, index
}

func newFakeKV(servers int) *fakeKV {
	return &fakeKV{
		changed: make(chan struct{}), index: 10, random: rand.New(rand.NewPCG(1, 2)), servers: make([]int, servers), sessions: map[string]bool{},
		states: []kvState{{keys: map[string]uint64{}, tombstones: map[string]uint64{}, index: 10}},
	}
}

// change makes a new state; the leader has it at once.
func (f *fakeKV) change(change func(s kvState, index uint64)) {
	f.mu.Lock()
	defer f.mu.Unlock()

	last := f.states[len(f.states)-1]
	f.index++
	next := kvState{keys: maps.Clone(last.keys), tombstones: maps.Clone(last.tombstones), index: f.index}
	change(next, f.index)
	f.states = append(f.states, next)
	f.servers[0] = len(f.states) - 1
	f.wake()
}

func (f *fakeKV) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeKV) set(key string) {
	f.change(func(s kvState, index uint64) {
		s.keys[key] = index
		delete(s.tombstones, key)
	})
}

func (f *fakeKV) delete(key string) {
	f.change(func(s kvState, index uint64) {
		if _, ok := s.keys[key]; ok {
			delete(s.keys, key)
			s.tombstones[key] = index
		}
	})
}

// reap forgets the deletions.
func (f *fakeKV) reap() { f.change(func(s kvState, _ uint64) { clear(s.tombstones) }) }

// follow has a server be as far as, or nearer to, the leader.
func (f *fakeKV) follow(server, position int) {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.servers[server] = max(f.servers[server], min(position, len(f.states)-1))
	f.wake()
}

func (f *fakeKV) failWith(fault func(*http.Request) (*http.Response, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.fault = fault
	f.wake()
}

// asked are the requests whose path begins so.
func (f *fakeKV) asked(prefix string) (found []fakeRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()

	for _, request := range f.requests {
		if strings.HasPrefix(request.path, prefix) {
			found = append(found, request)
		}
	}

	return found
}

func (f *fakeKV) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.requests = append(f.requests, fakeRequest{method: req.Method, path: req.URL.Path, query: req.URL.Query(), at: time.Now()})
	f.waiting++
	f.most = max(f.most, f.waiting)
	server := 0
	if req.URL.Query().Has("stale") {
		server = f.random.IntN(len(f.servers))
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.waiting--
	}()

	path := strings.TrimPrefix(req.URL.Path, "/v1/")
	expired, done := waitOf(req), false
	wanted, _ := strconv.ParseUint(req.URL.Query().Get("index"), 10, 64)
	for {
		f.mu.Lock()
		fault, changed, state := f.fault, f.changed, f.states[f.servers[server]]
		f.mu.Unlock()
		if fault != nil {
			if resp, err := fault(req); !errors.Is(err, errPass) {
				return resp, err
			}
		}
		if !strings.HasPrefix(path, "kv/") {
			return f.session(req, path)
		}
		key := strings.TrimPrefix(path, "kv/")
		if req.Method == http.MethodPut {
			f.set(key)

			return respond(http.StatusOK, nil, true), nil
		}
		found, index := state.below(key)
		if !req.URL.Query().Has("recurse") {
			maps.DeleteFunc(found.keys, func(k string, _ uint64) bool { return k != key })
		}
		if wanted == 0 || index > wanted || done {
			headers := map[string]string{"X-Consul-Index": strconv.FormatUint(index, 10)}
			if len(found.keys) == 0 {
				return respond(http.StatusNotFound, headers, ""), nil
			}
			var pairs api.KVPairs
			for _, key := range slices.Sorted(maps.Keys(found.keys)) {
				pairs = append(pairs, &api.KVPair{Key: key, ModifyIndex: found.keys[key], Value: []byte(key)})
			}

			return respond(http.StatusOK, headers, pairs), nil
		}
		select {
		case <-changed:
		case <-expired:
			done = true
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
}

// session answers about sessions.
func (f *fakeKV) session(req *http.Request, path string) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()

	id := path[strings.LastIndex(path, "/")+1:]
	switch {
	case path == "session/create":
		var asked map[string]any
		if err := json.NewDecoder(req.Body).Decode(&asked); err != nil {
			return nil, err
		}
		id = fmt.Sprintf("session-%d", len(f.sessions))
		f.sessions[id] = true

		return respond(http.StatusOK, nil, map[string]string{"ID": id}), nil
	case strings.HasPrefix(path, "session/renew/"):
		if !f.sessions[id] {
			return respond(http.StatusNotFound, nil, "Session id not found"), nil
		}

		return respond(http.StatusOK, nil, []api.SessionEntry{{ID: id}}), nil
	case strings.HasPrefix(path, "session/destroy/"):
		delete(f.sessions, id)

		return respond(http.StatusOK, nil, true), nil
	case path == "txn":
		return respond(http.StatusOK, nil, map[string]any{}), nil
	}

	return respond(http.StatusNotFound, nil, "no such path"), nil
}

func newFakeStore(t *testing.T, fake *fakeKV, cfg Config) (*Store, *logBook) {
	t.Helper()

	cfg.Address = "127.0.0.1:8500"
	book := &logBook{}
	store, err := NewStore(cfg, Deps{Log: slog.New(slog.NewTextHandler(book, nil)), Transport: fake})
	if err != nil {
		t.Fatal(err)
	}

	return store, book
}
