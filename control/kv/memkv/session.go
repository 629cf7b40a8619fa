package memkv

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// session is one that renews itself every third of its TTL, is given up by who has it once
// that has not worked for a TTL, and lost after two, as with Consul.
type session struct {
	store   *Store
	id      string
	options kv.SessionOptions
	done    chan struct{}
	closing sync.Once // of done
	// What follows is under memory.mu.
	renewed time.Time
	givenUp bool
	ended   bool
	timer   *time.Timer
}

// Session implements kv.Store.
func (s *Store) Session(ctx context.Context, o kv.SessionOptions) (kv.Session, error) {
	do, err := s.reach(ctx, true)
	defer s.memory.mu.Unlock()
	if !do {
		return nil, err
	}
	s.memory.begun++
	made := &session{store: s, id: strconv.Itoa(s.memory.begun), options: o.WithDefaults(), done: make(chan struct{}), renewed: time.Now()}
	made.timer = time.AfterFunc(made.options.TTL/3, made.tick)
	if err != nil {
		made.giveUp() // nobody has heard of it: it lives until its time is over
		return nil, err
	}
	return made, nil
}

// giveUp has who has the session know that it may be lost. memory.mu is held.
func (s *session) giveUp() {
	s.givenUp = true
	s.closing.Do(func() { close(s.done) })
}

func (s *session) tick() {
	s.store.memory.mu.Lock()
	defer s.store.memory.mu.Unlock()
	if s.ended {
		return
	}
	now, ttl := time.Now(), s.options.TTL
	if s.store.fault.Err == nil && !s.givenUp {
		s.renewed = now
	}
	unheard := now.Sub(s.renewed)
	switch {
	case unheard >= 2*ttl:
		s.store.memory.end(s, s.options.LockDelay)
		return
	case unheard >= ttl:
		s.giveUp()
		s.timer.Reset(2*ttl - unheard)
	default:
		s.timer.Reset(min(ttl/3, ttl-unheard))
	}
}

// reach is Store.reach for what the session does.
func (s *session) reach(ctx context.Context) (do bool, err error) {
	do, err = s.store.reach(ctx, true)
	if do && s.givenUp {
		return false, fmt.Errorf("memory: session %q: %w", s.options.Name, kv.ErrLost)
	}
	return do, err
}

// take writes a key and ties it to the session. memory.mu is held.
func (s *session) take(key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	s.store.memory.change(kv.Op{Key: key, Value: value, Any: true})
	s.store.memory.entries[key].session = s
}

// ID implements kv.Session.
func (s *session) ID() string { return s.id }

// Put implements kv.Session.
func (s *session) Put(ctx context.Context, key string, value []byte) error {
	if err := check(key, value); err != nil {
		return err
	}
	do, err := s.reach(ctx)
	defer s.store.memory.mu.Unlock()
	if do {
		s.take(key, value)
	}
	return err
}

// TryLock implements kv.Session.
func (s *session) TryLock(ctx context.Context, key string, value []byte) (bool, error) {
	if err := check(key, value); err != nil {
		return false, err
	}
	do, err := s.reach(ctx)
	m := s.store.memory
	defer m.mu.Unlock()
	if !do {
		return false, err
	}
	if e := m.entries[key]; e != nil && e.session != nil && e.session != s {
		return false, err
	}
	if until, ok := m.delays[key]; ok {
		if time.Now().Before(until) {
			return false, err
		}
		delete(m.delays, key)
	}
	s.take(key, value)
	return err == nil, err
}

// Unlock implements kv.Session.
func (s *session) Unlock(ctx context.Context, key string) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	do, err := s.reach(ctx)
	m := s.store.memory
	defer m.mu.Unlock()
	if e := m.entries[key]; do && e != nil && e.session == s {
		m.change(kv.Op{Key: key, Any: true})
	}
	return err
}

// Done implements kv.Session.
func (s *session) Done() <-chan struct{} { return s.done }

// Close implements kv.Session.
func (s *session) Close(ctx context.Context) error {
	s.store.memory.mu.Lock()
	s.giveUp()
	s.store.memory.mu.Unlock()
	do, err := s.store.reach(ctx, true)
	defer s.store.memory.mu.Unlock()
	if do {
		s.store.memory.end(s, 0)
	}
	return err
}

func check(key string, value []byte) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	return kv.CheckValue(key, value)
}
