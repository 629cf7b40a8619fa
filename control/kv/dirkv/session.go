package dirkv

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

const (
	// maxLockDelay bounds a lock delay, as Consul does.
	maxLockDelay = time.Minute
	// beats is how often within its TTL a session is renewed.
	beats = 5
)

// sessionFile is what a session's file says, mostly for people.
type sessionFile struct {
	Name      string        `json:"name"`
	PID       int           `json:"pid"`
	TTL       time.Duration `json:"ttl_ns"`
	LockDelay time.Duration `json:"lock_delay_ns"`
}

// session is one of this process.
type session struct {
	store   *Store
	options kv.SessionOptions
	id      string
	// file is locked for as long as the session lives.
	file *os.File
	done chan struct{}
	lose func() // closes done
	// deadline calls lose when the session could not be renewed in time, which is before
	// others take it for lost.
	deadline *time.Timer
	leave    func()

	closing sync.Mutex
	closed  bool
	// due is when it is renewed next; for the background alone.
	due time.Time
}

// patience is how long a session may go without being renewed before whoever has it takes
// it for lost. Others do so after the whole TTL.
func (s *session) patience() time.Duration { return s.options.TTL * 2 / 3 }

func (s *Store) sessionPath(id string) string { return s.own(filepath.Join(sessionsDir, id)) }

// Session implements kv.Store.
func (s *Store) Session(ctx context.Context, o kv.SessionOptions) (kv.Session, error) {
	made := &session{store: s, options: o.WithDefaults(), id: rand.Text() + suffix, done: make(chan struct{})}
	made.options.LockDelay = min(made.options.LockDelay, maxLockDelay)
	made.lose = sync.OnceFunc(func() { close(made.done) })
	start := time.Now()
	err := s.locked(ctx, exclusive, made.create)
	if err != nil {
		return nil, s.failed(err)
	}
	made.deadline = time.AfterFunc(time.Until(start.Add(made.patience())), made.lose)
	made.due = start.Add(made.options.TTL / beats)
	leave := s.join()
	s.mu.Lock()
	s.sessions[made] = struct{}{}
	s.mu.Unlock()
	made.leave = sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.sessions, made)
		s.mu.Unlock()
		leave()
	})
	return made, nil
}

// create makes the session's file, which is locked before others see it. The folder's lock
// is held exclusively.
func (s *session) create() (err error) {
	if err := s.store.finish(); err != nil {
		return err
	}
	content, err := json.Marshal(sessionFile{Name: s.options.Name, PID: os.Getpid(), TTL: s.options.TTL, LockDelay: s.options.LockDelay})
	if err != nil {
		return err
	}
	fresh := s.store.own(filepath.Join(newDir, s.id))
	if err := writeNew(fresh, content, time.Time{}); err != nil {
		return err
	}
	if s.file, err = os.Open(fresh); err != nil {
		return err
	}
	ok, err := flock(s.file, exclusive)
	if err == nil && !ok {
		err = errors.New("a new session is locked by another process")
	}
	if err == nil {
		err = os.Rename(fresh, s.store.sessionPath(s.id))
	}
	if err != nil {
		_ = s.file.Close()
	}
	return err
}

// renew renews the session, or finds out that it is lost.
func (s *session) renew(ctx context.Context) {
	path := s.store.sessionPath(s.id)
	if !s.alive() {
		return
	}
	now := time.Now()
	if now.Before(s.due) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.TTL/beats)
	defer cancel()
	// The lock keeps others from ending the session just now.
	err := s.store.locked(ctx, shared, func() error {
		if !s.alive() {
			return kv.ErrLost
		}
		return os.Chtimes(path, now, now)
	})
	if err != nil {
		return // until the deadline
	}
	s.due = now.Add(s.options.TTL / beats)
	if s.deadline.Stop() {
		s.deadline.Reset(time.Until(now.Add(s.patience())))
	}
}

// alive says whether the session is not lost, and has whoever has it know if it is.
func (s *session) alive() bool {
	select {
	case <-s.done:
		return false
	default:
	}
	if s.store.present() == nil && !isAt(s.file, s.store.sessionPath(s.id)) {
		s.lose()
		return false
	}
	return true
}

// change is Store.change for what the session does.
func (s *session) change(ctx context.Context, collect func(*change) error) error {
	return s.store.change(ctx, func(c *change) error {
		if !s.alive() {
			return fmt.Errorf("folder %s: session %q: %w", s.store.dir, s.options.Name, kv.ErrLost)
		}
		return collect(c)
	})
}

// take writes a key, and ties it to the session.
func (s *session) take(c *change, key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	c.set(key, value)
	c.own(key, s.id)
}

// ID implements kv.Session.
func (s *session) ID() string { return s.id }

// Put implements kv.Session.
func (s *session) Put(ctx context.Context, key string, value []byte) error {
	if err := check(key, value); err != nil {
		return err
	}
	return s.change(ctx, func(c *change) error {
		s.take(c, key, value)
		return nil
	})
}

// TryLock implements kv.Session.
func (s *session) TryLock(ctx context.Context, key string, value []byte) (got bool, err error) {
	if err := check(key, value); err != nil {
		return false, err
	}
	err = s.change(ctx, func(c *change) error {
		owner := c.meta.Owned[key]
		if owner != "" && owner != s.id || time.Now().UnixNano() < c.meta.Delays[key] {
			return nil
		}
		got = true
		s.take(c, key, value)
		return nil
	})
	return got && err == nil, err
}

// Unlock implements kv.Session.
func (s *session) Unlock(ctx context.Context, key string) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	return s.change(ctx, func(c *change) error {
		if c.meta.Owned[key] == s.id {
			c.set(key, nil)
		}
		return nil
	})
}

// Done implements kv.Session.
func (s *session) Done() <-chan struct{} { return s.done }

// Close implements kv.Session.
func (s *session) Close(ctx context.Context) error {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed {
		return nil
	}
	s.deadline.Stop()
	s.lose()
	s.leave()
	err := s.store.change(ctx, func(c *change) error {
		for _, key := range c.keysOf(s.id) {
			c.set(key, nil)
		}
		return nil
	})
	if err == nil {
		err = os.Remove(s.store.sessionPath(s.id))
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	_ = s.file.Close() // its lock goes: others end the session, if we could not
	s.closed = true
	return err
}

func check(key string, value []byte) error {
	if err := kv.CheckKey(key); err != nil {
		return err
	}
	return kv.CheckValue(key, value)
}

// lost says whether a session is over, and how long its locks cannot be taken then.
func (s *Store) lost(id string, now time.Time) (over bool, delay time.Duration) {
	path := s.sessionPath(id)
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		// Who had it may be alive: its file was taken away.
		return errors.Is(err, os.ErrNotExist), kv.DefaultLockDelay
	}
	defer func() { _ = file.Close() }()
	free, err := flock(file, shared)
	if err != nil || free {
		return free, 0
	}
	said := sessionFile{TTL: kv.DefaultTTL, LockDelay: kv.DefaultLockDelay}
	content, renewed, err := readFile(path, maxOwn)
	if err != nil {
		return false, 0
	}
	_ = json.Unmarshal(content, &said)
	return now.Sub(renewed) > said.TTL, min(max(0, said.LockDelay), maxLockDelay)
}

// sessionIDs are those that have files.
func (s *Store) sessionIDs() (ids []string) {
	files, err := os.ReadDir(s.own(sessionsDir))
	if err != nil {
		return nil
	}
	for _, file := range files {
		ids = append(ids, file.Name())
	}
	return ids
}

// reap ends the sessions that are lost. The change is done then, and can be used no more.
func (c *change) reap(now time.Time) error {
	s := c.store
	var over []string
	seen := map[string]bool{}
	look := func(id string) {
		if seen[id] {
			return
		}
		seen[id] = true
		lost, delay := s.lost(id, now)
		if !lost {
			return
		}
		over = append(over, id)
		for _, key := range c.keysOf(id) {
			c.set(key, nil)
			if delay > 0 {
				c.meta.Delays[key] = now.Add(delay).UnixNano()
			}
		}
	}
	for _, id := range s.sessionIDs() {
		look(id)
	}
	for _, id := range c.meta.Owned {
		look(id)
	}
	if err := c.do(); err != nil {
		return err
	}
	for _, id := range over {
		if err := os.RemoveAll(s.sessionPath(id)); err != nil {
			return err
		}
	}
	return nil
}
