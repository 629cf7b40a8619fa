package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
)

const (
	// minTTL and maxTTL are what Consul takes for a session, maxLockDelay for its locks.
	minTTL       = 10 * time.Second
	maxTTL       = 24 * time.Hour
	maxLockDelay = time.Minute
	// renewals is how often within its TTL a session is renewed.
	renewals = 3
)

// storeSession is a session of Consul's that is renewed until it is closed or lost.
type storeSession struct {
	store   *Store
	options kv.SessionOptions
	id      string
	done    chan struct{}
	lose    func() // closes done
	// deadline calls lose where the session may have expired.
	deadline *time.Timer
	stop     context.CancelFunc
	ended    chan struct{} // the renewing has
	hurry    chan struct{} // a lock was taken: it is renewed more often

	mu sync.Mutex // guards what follows
	// keys are those that it has, or may have, and whether as a lock.
	keys   map[string]bool
	closed bool
}

// Session implements kv.Store.
func (s *Store) Session(ctx context.Context, o kv.SessionOptions) (kv.Session, error) {
	o = o.WithDefaults()
	o.TTL = min(max(o.TTL, minTTL), maxTTL)
	o.LockDelay = min(o.LockDelay, maxLockDelay)
	made := &storeSession{
		store: s, options: o, done: make(chan struct{}), ended: make(chan struct{}), hurry: make(chan struct{}, 1), keys: map[string]bool{},
	}
	made.lose = sync.OnceFunc(func() { close(made.done) })
	entry := &api.SessionEntry{Name: o.Name, TTL: o.TTL.String(), LockDelay: o.LockDelay, Behavior: api.SessionBehaviorDelete}
	var start time.Time
	err := s.callNow(ctx, "begin a session", sessionRules(), func(ctx context.Context) (err error) {
		start = time.Now()
		made.id, _, err = s.agent.api.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))

		return err
	})
	if err != nil {
		return nil, err
	}
	made.deadline = time.AfterFunc(time.Until(start.Add(o.TTL)), made.lose)
	renewing, stop := context.WithCancel(context.Background())
	made.stop = stop
	go made.run(renewing)

	return made, nil
}

func sessionRules() []string { return []string{rule("session", "", "write")} }

// run renews the session until ctx ends or it is lost.
func (s *storeSession) run(ctx context.Context) {
	defer close(s.ended)
	failed := backoff{base: 250 * time.Millisecond, most: s.options.TTL / (2 * renewals), random: s.store.agent.random}
	// The first one comes at any time: sidecars that begin together, because somebody has
	// started them all or Consul is back, would go on renewing together.
	timer := time.NewTimer(time.Duration(s.store.agent.random() * float64(s.pace())))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-s.hurry:
			timer.Reset(s.pace())

			continue
		case <-timer.C:
		}
		if s.renew(ctx) {
			failed.reset()
			timer.Reset(s.pace())
		} else {
			timer.Reset(failed.next())
		}
	}
}

// pace is when to renew next. Whoever has a lock must know that its session is gone, which
// somebody may have ended, before another can take the lock.
func (s *storeSession) pace() time.Duration {
	pace := s.options.TTL / renewals
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, isLock := range s.keys {
		if isLock {
			pace = min(pace, s.options.LockDelay/2)
		}
	}

	return time.Duration((0.9 + 0.1*s.store.agent.random()) * float64(pace))
}

// renew renews the session once, or finds out that it is lost.
func (s *storeSession) renew(ctx context.Context) bool {
	start := time.Now()
	err := s.store.once(ctx, func(ctx context.Context) error {
		entry, _, err := s.store.agent.api.Session().Renew(s.id, (&api.WriteOptions{}).WithContext(ctx))
		if err == nil && entry == nil {
			s.lose()
		}

		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			s.store.agent.note(scopeSession, s.store.agent.explain(err, "renew a session", sessionRules()...))
		}

		return false
	}
	s.store.agent.noteSuccess(scopeSession)
	if s.deadline.Stop() {
		s.deadline.Reset(time.Until(start.Add(s.options.TTL)))
	}

	return true
}

// scopeSession is that of the troubles with renewing sessions.
const scopeSession = "session"

// Done implements kv.Session.
func (s *storeSession) Done() <-chan struct{} { return s.done }

func (s *storeSession) errLost() error {
	return fmt.Errorf("consul: session %q: %w", s.options.Name, kv.ErrLost)
}

// note notes that the session has a key, or may have it.
func (s *storeSession) note(key string, isLock bool) {
	s.mu.Lock()
	s.keys[key] = isLock
	s.mu.Unlock()
	if isLock {
		select {
		case s.hurry <- struct{}{}:
		default:
		}
	}
}

func (s *storeSession) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()

	delete(s.keys, key)
}

// acquire writes a key if no other session has it.
func (s *storeSession) acquire(ctx context.Context, key string, value []byte, isLock bool) (got bool, err error) {
	if err := kv.CheckKey(key); err != nil {
		return false, err
	}
	if err := kv.CheckValue(key, value); err != nil {
		return false, err
	}
	err = s.call(ctx, "write key "+strconv.Quote(key), keyRule(key, "write", false), func(ctx context.Context) (err error) {
		got, _, err = s.store.agent.api.KV().Acquire(&api.KVPair{Key: key, Value: value, Session: s.id}, (&api.WriteOptions{}).WithContext(ctx))

		return err
	})
	if got || err != nil && !errors.Is(err, kv.ErrLost) && !errors.Is(err, kv.ErrDenied) {
		s.note(key, isLock)
	}

	return got && err == nil, err
}

// call is Store.call for what the session does.
func (s *storeSession) call(ctx context.Context, what, needs string, do func(ctx context.Context) error) error {
	select {
	case <-s.done:
		return s.errLost()
	default:
	}
	err := s.store.call(ctx, what, []string{needs, rule("session", "", "write")}, do)
	if failure, ok := errors.AsType[*failure](err); ok && strings.Contains(failure.cause.Error(), "invalid session") {
		s.lose()

		return s.errLost()
	}

	return err
}

// ID implements kv.Session.
func (s *storeSession) ID() string { return s.id }

// Put implements kv.Session.
func (s *storeSession) Put(ctx context.Context, key string, value []byte) error {
	for {
		if got, err := s.acquire(ctx, key, value, false); got || err != nil {
			return err
		}
		took, err := s.takeOver(ctx, key, value)
		if took || err != nil {
			return err
		}
		// Its delay is not over, or it changes hands just now.
		if !quietly(ctx) {
			return ctx.Err()
		}
	}
}

// takeOver takes a key from another session.
func (s *storeSession) takeOver(ctx context.Context, key string, value []byte) (took bool, err error) {
	err = s.call(ctx, "write key "+strconv.Quote(key), keyRule(key, "write", false), func(ctx context.Context) error {
		pair, _, err := s.store.agent.api.KV().Get(key, consistently(ctx))
		if err != nil || pair == nil || pair.Session == "" || pair.Session == s.id {
			return err
		}
		failed, err := s.store.transact(ctx, []api.TxnOp{
			{KV: &api.KVTxnOp{Verb: api.KVUnlock, Key: key, Value: value, Session: pair.Session}},
			{KV: &api.KVTxnOp{Verb: api.KVLock, Key: key, Value: value, Session: s.id}},
		})
		took = err == nil && len(failed) == 0

		return err
	})
	if took || err != nil && !errors.Is(err, kv.ErrLost) && !errors.Is(err, kv.ErrDenied) {
		s.note(key, false)
	}

	return took, err
}

// TryLock implements kv.Session.
func (s *storeSession) TryLock(ctx context.Context, key string, value []byte) (bool, error) {
	return s.acquire(ctx, key, value, true)
}

// Unlock implements kv.Session.
func (s *storeSession) Unlock(ctx context.Context, key string) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	err := s.call(ctx, "delete key "+strconv.Quote(key), keyRule(key, "write", false), s.release(key))
	if err == nil {
		s.forget(key)
	}

	return err
}

// release deletes a key if the session has it. A key that goes with its session cannot be
// locked for a while; one that is deleted can.
func (s *storeSession) release(key string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.store.transact(ctx, []api.TxnOp{
			{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: key, Session: s.id}},
			{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: key}},
		})

		return err
	}
}

// Close implements kv.Session.
func (s *storeSession) Close(ctx context.Context) error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	keys := slices.Sorted(maps.Keys(s.keys))
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.deadline.Stop()
	s.lose()
	s.stop()
	<-s.ended

	var failed error
	for _, key := range keys {
		if err := s.store.call(ctx, "delete key "+strconv.Quote(key), []string{keyRule(key, "write", false)}, s.release(key)); err != nil {
			failed = err

			break
		}
	}
	// Also after that has failed: the keys go with the session then.
	err := s.store.callNow(ctx, "end a session", sessionRules(), func(ctx context.Context) error {
		_, err := s.store.agent.api.Session().Destroy(s.id, (&api.WriteOptions{}).WithContext(ctx))

		return err
	})

	return cmp.Or(failed, err)
}
