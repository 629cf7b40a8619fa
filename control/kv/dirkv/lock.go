package dirkv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// The ways to hold the folder's lock.
const (
	shared    = syscall.LOCK_SH
	exclusive = syscall.LOCK_EX
)

// lockPatience is how long the lock is waited for: others hold it for milliseconds.
const lockPatience = 10 * time.Second

// locked does something while the folder is locked.
func (s *Store) locked(ctx context.Context, how int, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := s.lock(ctx, how)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // which unlocks it
	return do()
}

// lock locks the folder. Whoever wants to has to be the one whose turn it is, so that
// somebody who locks it again and again keeps nobody else from it.
func (s *Store) lock(ctx context.Context, how int) (*os.File, error) {
	deadline := time.Now().Add(lockPatience)
	turn, err := s.await(ctx, deadline, turnFile, exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { _ = turn.Close() }()
	return s.await(ctx, deadline, lockFile, how)
}

// await locks one of the store's own files.
func (s *Store) await(ctx context.Context, deadline time.Time, name string, how int) (*os.File, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 8*time.Millisecond) {
		file, err := s.tryLock(name, how)
		if file != nil || err != nil {
			return file, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another process has had it locked for %v: is one of those stopped that use it?", lockPatience)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// tryLock returns nothing where another has the lock.
func (s *Store) tryLock(name string, how int) (*os.File, error) {
	path := s.own(name)
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = s.prepare(); err == nil {
			file, err = os.OpenFile(path, os.O_RDONLY|os.O_CREATE, fileMode)
		}
	}
	if err != nil {
		return nil, err
	}
	ok, err := flock(file, how)
	if ok && err == nil {
		ok = isAt(file, path)
	}
	if !ok || err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// flock locks a file, or says that another process has.
func flock(file *os.File, how int) (bool, error) {
	for {
		switch err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, &os.PathError{Op: "lock", Path: file.Name(), Err: err}
		}
	}
}

// isAt says whether an open file is still the one at a path.
func isAt(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, now)
}
