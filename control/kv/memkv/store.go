package memkv

import (
	"context"
	"errors"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// Fault is what is wrong with a Store's way to its Memory. The zero Fault is none.
type Fault struct {
	// Err is what all calls fail with, and sessions cannot be renewed.
	Err error
	// Unheard has what changes something be done nevertheless: the answers alone are lost.
	Unheard bool
	// Slow is how long each call takes, and what is handed over comes later.
	Slow time.Duration
}

// Store is a view of a Memory; see Memory.Store.
type Store struct {
	memory *Memory
	// fault is under memory.mu.
	fault  Fault
	killed bool
}

var _ kv.Store = (*Store)(nil)

// SetFault has something be wrong from now on.
func (s *Store) SetFault(f Fault) {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	if s.killed {
		return
	}
	s.fault = f
	for w := range s.memory.watches {
		if w.store == s {
			w.wake()
		}
	}
}

// errKilled is what the calls of a process that is gone fail with.
var errKilled = errors.New("memory: this process was killed")

// Kill ends the process that the Store is of: its calls fail, its sessions are not renewed
// any more, and are lost when their time is over.
func (s *Store) Kill() {
	s.SetFault(Fault{Err: errKilled})
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	s.killed = true
}

// Lose has a session of the Store be lost now, as if it had not been renewed for long.
func (s *Store) Lose(lost kv.Session) {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	session := lost.(*session)
	s.memory.end(session, session.options.LockDelay)
}

// Describe implements kv.Store.
func (s *Store) Describe() string { return "memory" }

// reach takes the time that a call takes. It returns with memory.mu held: what is to be
// done is done where do is true, and then the error is returned.
func (s *Store) reach(ctx context.Context, changes bool) (do bool, err error) {
	s.memory.mu.Lock()
	if slow := s.fault.Slow; slow > 0 {
		s.memory.mu.Unlock()
		ok := sleep(ctx, slow)
		s.memory.mu.Lock()
		if !ok {
			return false, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return s.fault.Err == nil || changes && s.fault.Unheard, s.fault.Err
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	do, err := s.reach(ctx, false)
	defer s.memory.mu.Unlock()
	if !do {
		return kv.Entry{}, err
	}
	e := s.memory.entries[key]
	if e == nil {
		return kv.Entry{}, kv.ErrNotFound
	}
	return kv.Entry{Key: key, Value: e.value, Version: e.version}, nil
}

// List implements kv.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]kv.Entry, error) {
	if err := kv.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	do, err := s.reach(ctx, false)
	defer s.memory.mu.Unlock()
	if !do {
		return nil, err
	}
	return s.memory.list(prefix), nil
}

// Commit implements kv.Store.
func (s *Store) Commit(ctx context.Context, ops ...kv.Op) error {
	if err := kv.CheckOps(ops); err != nil {
		return err
	}
	do, err := s.reach(ctx, true)
	defer s.memory.mu.Unlock()
	if !do {
		return err
	}
	if keys := s.memory.conflicts(ops); len(keys) > 0 {
		if err == nil {
			err = &kv.ConflictError{Keys: keys}
		}
		return err
	}
	s.memory.change(ops...)
	return err
}

type watch struct {
	store  *Store
	prefix string
	tell   chan struct{}
}

func (w *watch) wake() {
	select {
	case w.tell <- struct{}{}:
	default:
	}
}

// Watch implements kv.Store.
func (s *Store) Watch(ctx context.Context, prefix string, update func(kv.State)) {
	m := s.memory
	w := &watch{store: s, prefix: prefix, tell: make(chan struct{}, 1)}
	w.wake()
	m.mu.Lock()
	m.watches[w] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, w)
	}()
	kv.Follow(ctx, prefix, w.tell, func() kv.State {
		do, err := s.reach(ctx, false)
		defer m.mu.Unlock()
		if !do {
			return kv.State{Err: err}
		}
		return kv.State{Entries: m.list(prefix), Known: true}
	}, update)
}

func sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
