package consul

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
)

const (
	// storeCalls is how many reads and commits of a Store may be at the agent at once.
	storeCalls = 4
	// storeTries is how often a call is made that the agent refuses because there are too
	// many.
	storeTries = 5
)

// Store is Consul's KV as a kv.Store, through the same agent, connections and token as a
// Source. It is that of the agent's own datacentre, whichever services are looked for in.
//
// Reads are consistent. A watch is one blocking query, however many watch the same prefix;
// any of Consul's servers may answer it, but an answer that is behind what was handed over
// is asked for again, consistently. Its connections are of Config.MaxConnections; where
// there are more queries than slots they take turns (see the package's comment).
// While Consul is away a watch asks again, each sidecar at a moment of its own, at least
// every five seconds.
//
// A session is not bound to the agent's checks, just to being renewed: every third of its
// TTL, and twice within LockDelay while it has locks, so that it knows of its end before
// another can take them, whoever has ended it. When a process is killed, Consul deletes its
// keys after TTL to 2×TTL (1.22: 2×TTL after the last renewal), and others can take its
// locks LockDelay after that: with the least TTL there is, 10 s, after 21 s. When Consul
// elects a leader, it starts all over.
type Store struct {
	agent *agent
	calls chan struct{}

	mu       sync.Mutex
	watching map[string]*watchedPrefix
}

var _ kv.Store = (*Store)(nil)

// NewStore returns a Store of its own, for programs that look for no services. It does not
// ask the agent anything; see New.
func NewStore(cfg Config, deps Deps) (*Store, error) {
	agent, err := newAgent(cfg, deps.withDefaults())
	if err != nil {
		return nil, err
	}

	return newStore(agent), nil
}

// Store returns Consul's KV, always the same. It shares all with the Source.
func (s *Source) Store() *Store {
	s.agent.storeOnce.Do(func() { s.agent.store = newStore(s.agent) })

	return s.agent.store
}

func newStore(agent *agent) *Store {
	return &Store{agent: agent, calls: make(chan struct{}, storeCalls), watching: map[string]*watchedPrefix{}}
}

// Describe implements kv.Store.
func (s *Store) Describe() string { return "Consul's KV at " + s.agent.address }

// CloseIdleConnections closes the connections to the agent that are not in use.
func (s *Store) CloseIdleConnections() { s.agent.closeIdle() }

// keyRule is the ACL rule that a key, or all keys below a prefix, need.
func keyRule(key, access string, below bool) string {
	if below {
		return fmt.Sprintf(`key_prefix %q { policy = %q }`, key, access)
	}

	return rule("key", key, access)
}

// call makes a call of the agent's, again where the agent says that there are too many.
// what and rules are as in explain.
func (s *Store) call(ctx context.Context, what string, rules []string, do func(ctx context.Context) error) error {
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-ctx.Done():
		return ctx.Err()
	}

	return s.callNow(ctx, what, rules, do)
}

// callNow is call for what cannot wait for other calls.
func (s *Store) callNow(ctx context.Context, what string, rules []string, do func(ctx context.Context) error) error {
	limits := backoff{base: limitedBase / 2, most: limitedMost, random: s.agent.random}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := s.once(ctx, do)
		if err == nil {
			s.agent.answered()

			return nil
		}
		if conflict, ok := errors.AsType[*kv.ConflictError](err); ok {
			s.agent.answered()

			return conflict
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failure := s.agent.explain(err, what, rules...)
		switch failure.kind {
		case limited, unreachable:
			s.agent.note(scopeAgent, failure)
		case denied, rejected, missing, failing:
			s.agent.answered()
		}
		if failure.kind != limited || limits.failures == storeTries-1 || !sleep(ctx, limits.next()) {
			return failure.last()
		}
	}
}

func (s *Store) once(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(here(ctx, alteration{}), s.agent.limits.CallTimeout)
	defer cancel()

	return do(ctx)
}

// Is has a failure that is one of permissions be kv.ErrDenied.
func (f *failure) Is(target error) bool { return target == kv.ErrDenied && f.kind == denied }

func entryOf(pair *api.KVPair) kv.Entry {
	value := pair.Value
	if value == nil {
		value = []byte{}
	}

	return kv.Entry{Key: pair.Key, Value: value, Version: pair.ModifyIndex}
}

func consistently(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	var pair *api.KVPair
	err := s.call(ctx, "read key "+strconv.Quote(key), []string{keyRule(key, "read", false)}, func(ctx context.Context) (err error) {
		pair, _, err = s.agent.api.KV().Get(key, consistently(ctx))

		return err
	})
	switch {
	case err != nil:
		return kv.Entry{}, err
	case pair == nil:
		return kv.Entry{}, kv.ErrNotFound
	}

	return entryOf(pair), nil
}

// List implements kv.Store.
func (s *Store) List(ctx context.Context, prefix string) (found []kv.Entry, err error) {
	if err := kv.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	err = s.call(ctx, belowText(prefix), belowRules(prefix), func(ctx context.Context) error {
		found, _, err = s.list(prefix, consistently(ctx), true)

		return err
	})

	return found, err
}

func belowText(prefix string) string { return "read the keys below " + strconv.Quote(prefix) }

func belowRules(prefix string) []string { return []string{keyRule(prefix, "read", true)} }

// list asks once for what is below a prefix. What the token may not see is an error, not
// missing; probe has that be found out where nothing is seen.
func (s *Store) list(prefix string, options *api.QueryOptions, probe bool) ([]kv.Entry, *api.QueryMeta, error) {
	asked := prefix
	if base := path.Base(prefix); !strings.HasSuffix(prefix, "/") && (base == "." || base == "..") {
		asked = strings.TrimSuffix(prefix, base) // no path ends so
	}
	pairs, meta, err := s.agent.api.KV().List(asked, options)
	if err != nil {
		return nil, nil, err
	}
	if meta.ResultsFilteredByACLs {
		return nil, nil, errHidden
	}
	entries := make([]kv.Entry, 0, len(pairs))
	for _, pair := range pairs {
		if pair != nil && strings.HasPrefix(pair.Key, prefix) {
			entries = append(entries, entryOf(pair))
		}
	}
	if len(entries) == 0 {
		// Consul does not say so where it hides something from whoever has no token, nor
		// where there is nothing.
		if probe && asked != "" {
			options := (&api.QueryOptions{AllowStale: true}).WithContext(options.Context())
			_, _, err := s.agent.api.KV().Get(asked, options)
			if status, ok := errors.AsType[api.StatusError](err); ok && lacking.MatchString(status.Body) {
				err = errHidden // the rule that it names is one for that key alone
			}
			if err != nil {
				return nil, nil, err
			}
		}

		return nil, meta, nil
	}
	slices.SortFunc(entries, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })

	return entries, meta, nil
}

// quietly waits a little, for what another has to do first.
func quietly(ctx context.Context) bool { return sleep(ctx, 200*time.Millisecond) }
