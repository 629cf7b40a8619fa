package file

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// maxLinks bounds the symbolic links that are followed, as the kernel does.
const maxLinks = 40

// folders notifies of changes in the folders that decide what paths lead to.
// Folders are watched, not the file: a file that is replaced is another one,
// and takes its watch along.
type folders struct {
	paths   func() []string
	logger  *slog.Logger
	watcher *fsnotify.Watcher // nil where the system gives none
	// changes holds a token after changes.
	changes chan struct{}
	ended   sync.WaitGroup
}

// watchFolders begins to watch what decides where the paths lead to; they are asked
// for anew after each change. It never fails: where there are no
// notifications, none come.
func watchFolders(paths func() []string, logger *slog.Logger) *folders {
	f := &folders{paths: paths, logger: logger, changes: make(chan struct{}, 1)}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Warn("no notifications of changed files, they are looked for every so often", "every", pollEvery, "error", err)
		return f
	}
	f.watcher = watcher
	f.follow()
	f.ended.Go(f.forward)
	return f
}

// follow watches the folders that matter now.
func (f *folders) follow() {
	if f.watcher == nil {
		return
	}
	var wanted []string
	for _, path := range f.paths() {
		for _, folder := range foldersOf(path) {
			if !slices.Contains(wanted, folder) {
				wanted = append(wanted, folder)
			}
		}
	}
	for _, folder := range f.watcher.WatchList() {
		if !slices.Contains(wanted, folder) {
			_ = f.watcher.Remove(folder) // an error says that it is gone anyway
		}
	}
	for _, folder := range wanted {
		// Each time: a folder that was moved away has lost its watch.
		if err := f.watcher.Add(folder); err != nil {
			f.logger.Debug("folder is not watched, its files are looked for every so often", "folder", folder, "every", pollEvery, "error", err)
		}
	}
}

func (f *folders) forward() {
	events, errors := f.watcher.Events, f.watcher.Errors
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
		case f.changes <- struct{}{}:
		default:
		}
	}
}

func (f *folders) close() {
	if f.watcher != nil {
		_ = f.watcher.Close()
		f.ended.Wait()
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
