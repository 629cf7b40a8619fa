package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/filewatch"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// PolicyFiles hands over the policies of a file, or of all files of a folder. It is a
// [registry.PolicySource]. What is wrong leaves in force what stood there before: of a
// policy, or of a file that cannot be read as a whole.
type PolicyFiles struct {
	known *memory.Source

	path    string
	maxSize int64
	logger  *slog.Logger
	now     func() time.Time
	stop    context.CancelFunc
	ended   sync.WaitGroup

	// These belong to the goroutine that reads.
	files   map[string]*policyFile
	failure string // the last error about the folder, not about a file

	mu     sync.Mutex
	status Status
}

// policyFile is one file, as it was read last.
type policyFile struct {
	seen   seen
	err    error // what is wrong with the whole; nil if nothing is
	memory policies
	says   *registry.Policies // what it says, or said before err
}

var _ registry.PolicySource = (*PolicyFiles)(nil)

// OpenPolicies reads a file of policies, or those of a folder, of no more than maxSize
// bytes each, and goes on watching until [PolicyFiles.Close]. A nil logger discards.
// The error is the files': that one cannot be read, or a [configyaml.Problems] where
// more is wrong than single policies.
func OpenPolicies(path string, maxSize int64, logger *slog.Logger) (*PolicyFiles, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &PolicyFiles{
		known: memory.New(), path: path, maxSize: maxSize, logger: logger, now: time.Now,
		files: map[string]*policyFile{}, status: Status{Path: path},
	}
	// Watched before it is read, so that no change falls in between.
	watcher := filewatch.Watch(s.watched, logger)
	s.reload()
	if err := s.Status().Err; err != nil {
		watcher.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.ended.Go(func() { watcher.Run(ctx, s.reload) })
	return s, nil
}

// Close ends the watching of the files. What was handed over stays so.
func (s *PolicyFiles) Close() {
	s.stop()
	s.ended.Wait()
}

// WatchPolicies implements [registry.PolicySource].
func (s *PolicyFiles) WatchPolicies(ctx context.Context, update func(*registry.Policies)) {
	s.known.WatchPolicies(ctx, update)
}

// Status says how the reading of the files is going.
func (s *PolicyFiles) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// watched are the paths of which a change can matter: a folder, by a name in it, and
// each file.
func (s *PolicyFiles) watched() []string {
	paths, err := configyaml.PolicyPaths(s.path)
	if err != nil {
		return []string{s.path}
	}
	if !slices.Contains(paths, s.path) {
		paths = append(paths, s.path, filepath.Join(s.path, "any.yaml"))
	}
	return paths
}

// reload reads the files, and hands over what they say if that has changed.
func (s *PolicyFiles) reload() {
	paths, err := configyaml.PolicyPaths(s.path)
	if err != nil {
		if s.failure != err.Error() {
			s.failure = err.Error()
			s.fail(err)
		}
		return
	}
	changed := s.failure != "" || s.Status().LoadedAt.IsZero()
	s.failure = ""
	for path := range s.files {
		if !slices.Contains(paths, path) {
			delete(s.files, path)
			changed = true
		}
	}
	for _, path := range paths {
		if s.read(path) {
			changed = true
		}
	}
	if changed {
		s.take(paths)
	}
}

// read reads one file, and says whether anything has changed.
func (s *PolicyFiles) read(path string) bool {
	f := s.files[path]
	if f == nil {
		f = new(policyFile)
		s.files[path] = f
	}
	at := s.now()
	info, err := os.Stat(path)
	if err == nil && f.seen.same(info) {
		return false
	}
	data, err := configyaml.ReadMeshData(path, s.maxSize)
	if err != nil {
		news := f.seen.failure != err.Error()
		f.seen.info, f.seen.failure, f.err = nil, err.Error(), err
		return news
	}
	sum, recovered := sha256.Sum256(data), f.seen.failure != ""
	known := sum == f.seen.sum && !recovered && (f.says != nil || f.err != nil)
	f.seen = seen{info: info, at: at, sum: sum}
	if known {
		return false
	}
	good, refused, err := configyaml.ParsePolicies(path, data)
	if err == nil && len(bytes.TrimSpace(data)) == 0 && f.says != nil && len(f.says.List) > 0 {
		// A file that is being written anew is empty for a moment.
		err = configyaml.Problems{{
			File: path, Line: 1, Column: 1, Field: "policies",
			Message: "the file is empty: write policies: [] if there are none",
		}}
	}
	if f.err = err; err == nil {
		f.says = f.memory.take(path, data, good, refused)
	}
	return true
}

// take hands over what the files say.
func (s *PolicyFiles) take(paths []string) {
	at := s.now()
	var said []*registry.Policies
	var errs []error
	for _, path := range paths {
		f := s.files[path]
		said = append(said, f.says)
		if f.err != nil {
			errs = append(errs, f.err)
			said = append(said, &registry.Policies{Refused: wholeFile(f.err)})
		}
	}
	merged := registry.MergePolicies(s.path, said)
	err := errors.Join(errs...)
	if err != nil {
		s.fail(err)
		if s.Status().LoadedAt.IsZero() {
			return // OpenPolicies' caller is told
		}
	} else {
		s.mu.Lock()
		s.status = Status{Path: s.path, LoadedAt: at, Policies: len(merged.List)}
		s.mu.Unlock()
		s.logger.Info("policies are read", "path", s.path, "files", len(paths), "policies", len(merged.List))
	}
	s.known.ReplacePolicies(merged)
}

// wholeFile says of a file that nothing of it was taken over.
func wholeFile(err error) (refused []registry.RefusedPolicy) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		refused = append(refused, registry.RefusedPolicy{Problem: line})
	}
	return refused
}

// fail notes that what the files say is not in force as it is.
func (s *PolicyFiles) fail(err error) {
	s.mu.Lock()
	first := s.status.LoadedAt.IsZero()
	if s.status.Err == nil {
		s.status.FailingSince = s.now()
	}
	s.status.Err = err
	s.mu.Unlock()
	if first {
		return // OpenPolicies' caller is told
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		s.logger.Error("policies are not taken over, what was said before stays in force", "problem", line)
	}
}
