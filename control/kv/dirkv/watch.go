package dirkv

import (
	"context"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/filewatch"
)

const (
	// look is how often sessions are looked at, and a folder that could not be read.
	look = 250 * time.Millisecond
	// maxFolders bounds the folders whose changes are told at once; those of others are
	// found every two seconds.
	maxFolders = 4096
)

type watch struct{ tell chan struct{} }

func (w *watch) wake() {
	select {
	case w.tell <- struct{}{}:
	default: // it was told already
	}
}

// wake has all watches of this process look.
func (s *Store) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		w.wake()
	}
}

// Watch implements kv.Store.
func (s *Store) Watch(ctx context.Context, prefix string, update func(kv.State)) {
	w := &watch{tell: make(chan struct{}, 1)}
	w.wake()
	defer s.join()()
	s.mu.Lock()
	s.watches[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}()
	again := time.AfterFunc(look, w.wake)
	again.Stop()
	defer again.Stop()
	kv.Follow(ctx, prefix, w.tell, func() kv.State {
		found, err := s.List(ctx, prefix)
		if err != nil {
			again.Reset(look)
		}
		return kv.State{Entries: found, Known: true, Err: err}
	}, update)
}

// join has what goes on in the background do so, until the returned function is called.
func (s *Store) join() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users == 1 {
		var ctx context.Context
		ctx, s.stop = context.WithCancel(context.Background())
		s.ended = make(chan struct{})
		// Before anybody reads for the first time, so that no change falls in between.
		files := filewatch.Watch(s.folders, s.log)
		go s.background(ctx, files, s.ended)
	}
	return func() {
		s.mu.Lock()
		var stop context.CancelFunc
		var ended chan struct{}
		if s.users--; s.users == 0 {
			stop, ended = s.stop, s.ended
		}
		s.mu.Unlock()
		if stop != nil {
			stop()
			<-ended
		}
	}
}

// folders are paths in all folders that may hold values.
func (s *Store) folders() (paths []string) {
	paths = []string{filepath.Join(s.dir, "any")}
	root := s.dir + string(filepath.Separator) // which may be a link
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil, !entry.IsDir(), path == root:
			return nil //nolint:nilerr // what cannot be read is found out by who reads it
		case strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case len(paths) >= maxFolders:
			return fs.SkipAll
		}
		paths = append(paths, filepath.Join(path, "any"))
		return nil
	})
	return paths
}

func (s *Store) background(ctx context.Context, files *filewatch.Watcher, ended chan struct{}) {
	defer close(ended)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { files.Run(ctx, s.wake) })
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		own := slices.Collect(maps.Keys(s.sessions))
		s.mu.Unlock()
		for _, session := range own {
			session.renew(ctx)
		}
		if s.anyLost(time.Now()) {
			// Where we may not write, others have to do it.
			_ = s.change(ctx, func(*change) error { return nil })
		}
	}
}

// anyLost says whether there is a session to be ended.
func (s *Store) anyLost(now time.Time) bool {
	return slices.ContainsFunc(s.sessionIDs(), func(id string) bool {
		lost, _ := s.lost(id, now)
		return lost
	})
}
