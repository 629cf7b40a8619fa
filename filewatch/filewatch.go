// Package filewatch tells when what some paths lead to may have changed. It reads no
// file: who asked does that, and finds out whether anything is different.
package filewatch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the folders must be quiet until changes are acted on: an
	// editor takes several steps to write a file.
	quiet = 50 * time.Millisecond
	// patience is how long folders that are never quiet are waited for.
	patience = 500 * time.Millisecond
	// pollEvery is how often the files are to be looked at without having been told
	// to, because notifications do not come from everywhere: network file systems send
	// none, and a folder can be moved away from under its watch.
	pollEvery = 2 * time.Second
	// maxLinks bounds the symbolic links that are followed, as the kernel does.
	maxLinks = 40
)

// Watcher notifies of changes in the folders that decide what paths lead to.
// Folders are watched, not files: a file that is replaced is another one, and takes
// its watch along. The zero Watcher has no notifications.
type Watcher struct {
	paths   func() []string
	logger  *slog.Logger
	watcher *fsnotify.Watcher // nil where the system gives none
	// changes holds a token after changes.
	changes chan struct{}
	ended   sync.WaitGroup
}

// Watch begins to watch what decides where the paths lead to; they are asked for anew
// after each change. It never fails: where there are no notifications, none come. It
// is called before the files are read for the first time, so that no change falls in
// between. Either [Watcher.Run] or [Watcher.Close] has to follow.
func Watch(paths func() []string, logger *slog.Logger) *Watcher {
	w := &Watcher{paths: paths, logger: logger, changes: make(chan struct{}, 1)}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Warn("no notifications of changed files, they are looked for every so often", "every", pollEvery, "error", err)
		return w
	}
	w.watcher = watcher
	w.follow()
	w.ended.Go(w.forward)
	return w
}

// Run calls act after changes, once they have settled down, and every two seconds
// without any. It returns when ctx ends, and has closed the watcher then.
func (w *Watcher) Run(ctx context.Context, act func()) {
	defer w.Close()
	settle(ctx, w.changes, func() {
		w.follow()
		act()
	})
}

// Close ends the watching.
func (w *Watcher) Close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
		w.ended.Wait()
	}
}

// follow watches the folders that matter now.
func (w *Watcher) follow() {
	if w.watcher == nil {
		return
	}
	var wanted []string
	for _, path := range w.paths() {
		for _, folder := range foldersOf(path) {
			if !slices.Contains(wanted, folder) {
				wanted = append(wanted, folder)
			}
		}
	}
	for _, folder := range w.watcher.WatchList() {
		if !slices.Contains(wanted, folder) {
			_ = w.watcher.Remove(folder) // an error says that it is gone anyway
		}
	}
	for _, folder := range wanted {
		// Each time: a folder that was moved away has lost its watch.
		if err := w.watcher.Add(folder); err != nil {
			w.logger.Debug("folder is not watched, its files are looked for every so often", "folder", folder, "every", pollEvery, "error", err)
		}
	}
}

func (w *Watcher) forward() {
	events, errors := w.watcher.Events, w.watcher.Errors
	for events != nil || errors != nil {
		// An error (the kernel's queue was full) means that something changed,
		// too.
		var ok bool
		select {
		case _, ok = <-events:
			if !ok {
				events = nil
			}
		case _, ok = <-errors:
			if !ok {
				errors = nil
			}
		}
		if !ok {
			continue
		}
		select {
		case w.changes <- struct{}{}:
		default:
		}
	}
}

// foldersOf returns the folders, themselves free of symbolic links, in which a
// change can change what path leads to: those that hold a link on the way, and
// the one that holds the file or, where it is missing, the last that exists.
// A folder of Kubernetes is such a case (mesh.yaml links to ..data/mesh.yaml,
// and ..data to a folder that differs with each change), a link named "current"
// further up another.
func foldersOf(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var found []string
	for range maxLinks {
		folder, rest, target := nextLink(path)
		if !slices.Contains(found, folder) {
			found = append(found, folder)
		}
		if target == "" {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(folder, target)
		}
		path = filepath.Join(target, rest)
	}
	return found
}

// nextLink goes down an absolute path to the first symbolic link. It returns
// the folder that the link is in, what follows the link, and where it leads to.
// Where there is none, target is empty, and folder is the deepest that exists
// on the way to the last element.
func nextLink(path string) (folder, rest, target string) {
	const separator = string(filepath.Separator)
	folder = filepath.VolumeName(path) + separator
	rest = strings.TrimPrefix(path, folder)
	for {
		name, after, more := strings.Cut(rest, separator)
		here := filepath.Join(folder, name)
		info, err := os.Lstat(here)
		switch {
		case err != nil:
			return folder, "", ""
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(here)
			if err != nil {
				return folder, "", ""
			}
			return folder, after, target
		case !more || !info.IsDir():
			return folder, "", ""
		}
		folder, rest = here, after
	}
}
