// Package dirkv is a kv.Store in a folder, for the processes of one machine. Each value is
// a file as it is, which people may read, and change too: the key
// "pillion/v1/services/greeter/policy/timeouts" is the file
// pillion/v1/services/greeter/policy/timeouts.json. The folder ".kv" in it holds what
// belongs to the store alone. It is not for network file systems, nor for those that do not
// tell "a" from "A".
//
// # Commits
//
// Whoever writes holds .kv/lock (flock) exclusively, whoever reads shares it. New values
// are written to .kv/new first; then .kv/journal.json says what is to become of them, and
// from the moment that it has its name the commit is done, even if the process ends there:
// who reads looks at what the journal says, and who writes next does first what is left
// of it.
//
// # Sessions
//
// A session is a file in .kv/sessions that its process has locked (flock). The kernel
// unlocks it when the process ends, however that happens, and any other process that uses
// the folder ends the session then, within a quarter of a second; that the process cannot
// act any more is certain, so there is no lock delay. A process that lives but hangs (it was
// stopped) loses its session after the TTL.
package dirkv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// The permissions of what is made, within the umask: people may read it.
const (
	folderMode = 0o755
	fileMode   = 0o644
)

// Options are what a Store takes from outside. The zero value is fit for use.
type Options struct {
	// Log gets a line where the system gives no notifications of changes. Default: nothing
	// is logged.
	Log *slog.Logger
}

// Store is a folder.
type Store struct {
	dir string
	log *slog.Logger
	// step is called before each step of a commit; where it fails, the commit ends as if
	// the process had been killed. For tests.
	step func() error

	mu sync.Mutex // guards what follows
	// stop ends what goes on in the background, which it does while there are watches or
	// sessions; ended is closed then.
	stop     context.CancelFunc
	ended    chan struct{}
	users    int
	watches  map[*watch]struct{}
	sessions map[*session]struct{}
}

var _ kv.Store = (*Store)(nil)

// Open opens a folder as a store, and makes it if it is missing. Later on a folder that is
// missing (it is not mounted) is an error.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{log: o.Log, step: func() error { return nil }, watches: map[*watch]struct{}{}, sessions: map[*session]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(s.dir, folderMode); err != nil {
		return nil, s.failed(err)
	}
	if err := s.prepare(); err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, s.failed(err)
	}
	return s, nil
}

// prepare makes what belongs to the store alone.
func (s *Store) prepare() error {
	if _, err := os.Stat(s.dir); err != nil {
		return err
	}
	for _, dir := range []string{s.own(newDir), s.own(sessionsDir)} {
		if err := os.MkdirAll(dir, folderMode); err != nil {
			return err
		}
	}
	return nil
}

// Describe implements kv.Store.
func (s *Store) Describe() string { return "the folder " + s.dir }

// failed says in one line what failed, with the part of the folder's path only once.
func (s *Store) failed(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if pathErr, ok := err.(*os.PathError); ok { //nolint:errorlint // one that is wrapped says more
		if relative, within := strings.CutPrefix(pathErr.Path, s.dir+string(filepath.Separator)); within {
			err = fmt.Errorf("%s %s: %w", pathErr.Op, relative, pathErr.Err)
		} else {
			err = fmt.Errorf("%s: %w", pathErr.Op, pathErr.Err)
		}
	}
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: %w", kv.ErrDenied, err)
	}
	return fmt.Errorf("folder %s: %w", s.dir, err)
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key string) (entry kv.Entry, err error) {
	if err := kv.CheckKey(key); err != nil {
		return kv.Entry{}, err
	}
	var found *kv.Entry
	err = s.locked(ctx, shared, func() error {
		pending, err := s.pending()
		if err != nil {
			return err
		}
		found, err = s.read(pending, key)
		return err
	})
	switch {
	case err != nil:
		return kv.Entry{}, s.failed(err)
	case found == nil:
		return kv.Entry{}, kv.ErrNotFound
	}
	return *found, nil
}

// List implements kv.Store.
func (s *Store) List(ctx context.Context, prefix string) (found []kv.Entry, err error) {
	if err := kv.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	err = s.locked(ctx, shared, func() error {
		pending, err := s.pending()
		if err != nil {
			return err
		}
		keys, err := s.keys(prefix)
		if err != nil {
			return err
		}
		for key := range pending.changes() {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		for _, key := range slices.Compact(keys) {
			entry, err := s.read(pending, key)
			if err != nil {
				return err
			}
			if entry != nil {
				found = append(found, *entry)
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.failed(err)
	}
	return found, nil
}

// Commit implements kv.Store.
func (s *Store) Commit(ctx context.Context, ops ...kv.Op) error {
	if err := kv.CheckOps(ops); err != nil {
		return err
	}
	return s.change(ctx, func(c *change) error {
		var conflicts []string
		for _, op := range ops {
			if op.Holder != "" {
				if c.meta.Owned[op.Key] != op.Holder {
					conflicts = append(conflicts, op.Key)
				}
				continue
			}
			version, err := c.version(op.Key)
			if err != nil && !op.Any {
				return err
			}
			if !op.Any && version != op.Version {
				conflicts = append(conflicts, op.Key)
			}
		}
		if len(conflicts) > 0 {
			return &kv.ConflictError{Keys: conflicts}
		}
		for _, op := range ops {
			if op.Holder == "" {
				c.set(op.Key, op.Value)
			}
		}
		return nil
	})
}

// change has what a function collects be done as a whole, once sessions that are lost are
// cleared away. Where the function fails, only that is.
func (s *Store) change(ctx context.Context, collect func(*change) error) error {
	var refused error
	err := s.locked(ctx, exclusive, func() error {
		if err := s.finish(); err != nil {
			return err
		}
		c, err := s.begin()
		if err != nil {
			return err
		}
		if err := c.reap(time.Now()); err != nil {
			return err
		}
		if c, err = s.begin(); err != nil {
			return err
		}
		if refused = collect(c); refused == nil {
			err = c.do()
		}
		return err
	})
	if err != nil {
		return s.failed(err)
	}
	s.wake()
	conflict, ok := errors.AsType[*kv.ConflictError](refused)
	switch {
	case ok:
		return conflict
	case refused == nil, errors.Is(refused, kv.ErrLost):
		return refused
	}
	return s.failed(refused)
}
