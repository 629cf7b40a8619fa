// Package file is a registry source over a mesh file: it watches the file and
// hands over its services and policies whenever they change. How the file is written is
// [configyaml]'s business.
package file

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/filewatch"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// Source hands over the services of a mesh file. It is a [registry.Source].
// Content that is not valid, or a file that cannot be read, leaves what was
// known before in force, is logged once, and is told by [Source.Status]. Where
// only policies are wrong, only those stay as they were.
type Source struct {
	*memory.Source

	path    string
	maxSize int64
	logger  *slog.Logger
	now     func() time.Time
	stop    context.CancelFunc
	ended   sync.WaitGroup

	// These belong to the goroutine that reads the file.
	seen     seen
	policies policies

	mu     sync.Mutex
	status Status
}

// Status says how the reading of a mesh file is going.
type Status struct {
	// Path is the file's, as it was given.
	Path string
	// LoadedAt is when the content in force was read.
	LoadedAt time.Time
	// Services is how many services are in force, Policies how many policies.
	Services, Policies int
	// Err is what is wrong with the file now; nil if nothing is. It may be of
	// several lines, one for each problem.
	Err error
	// FailingSince is when that began; zero where Err is nil.
	FailingSince time.Time
}

// seen is what the source saw of the file when it looked last.
type seen struct {
	// info is nil where the file could not be read.
	info os.FileInfo
	// at is when info was taken.
	at time.Time
	// sum is of the content read last, valid or not.
	sum [sha256.Size]byte
	// failure is the last error about reading, not about content.
	failure string
}

var _ registry.Source = (*Source)(nil)

// Open reads the mesh file, of no more than maxSize bytes, and goes on watching
// it until [Source.Close]. A nil logger discards. The error is the file's: that it cannot be read, or a
// [configyaml.Problems].
func Open(path string, maxSize int64, logger *slog.Logger) (*Source, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		Source: memory.New(), path: path, maxSize: maxSize, logger: logger, now: time.Now, status: Status{Path: path},
	}
	// Watched before it is read, so that no change falls in between.
	watcher := filewatch.Watch(func() []string { return []string{path} }, logger)
	if err := s.open(); err != nil {
		watcher.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.ended.Go(func() { watcher.Run(ctx, s.reload) })
	return s, nil
}

// Close ends the watching of the file. What was handed over stays so.
func (s *Source) Close() {
	s.stop()
	s.ended.Wait()
}

// Status says how the reading of the file is going.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// open reads the file for the first time.
func (s *Source) open() error {
	s.reload()
	return s.Status().Err
}

// reload reads the file if it may have changed and takes it over if it is
// valid.
func (s *Source) reload() {
	at := s.now()
	info, err := os.Stat(s.path)
	if err == nil && s.seen.same(info) {
		return
	}
	data, err := configyaml.ReadMeshData(s.path, s.maxSize)
	if err != nil {
		s.unreadable(err)
		return
	}
	s.seen.info, s.seen.at = info, at
	recovered := s.seen.failure != ""
	s.seen.failure = ""
	sum := sha256.Sum256(data)
	if sum == s.seen.sum && !recovered {
		return
	}
	s.seen.sum = sum
	s.take(data, at)
}

// same says whether a file surely is the one that was read. A file that was
// written shortly before it was read can be written again without a visible
// difference: its time only has the resolution of the kernel's clock tick.
func (s *seen) same(info os.FileInfo) bool {
	const racy = 2 * time.Second
	return s.info != nil && os.SameFile(s.info, info) && s.info.Size() == info.Size() &&
		s.info.ModTime().Equal(info.ModTime()) && s.at.Sub(info.ModTime()) > racy
}

// unreadable notes that the file cannot be read, and says so if that is news.
func (s *Source) unreadable(err error) {
	s.seen.info = nil
	if s.seen.failure == err.Error() {
		return
	}
	s.seen.failure = err.Error()
	s.fail(err)
}

// take puts new content in force if it is valid.
func (s *Source) take(data []byte, at time.Time) {
	mesh, refused, err := configyaml.ParseMeshInPart(s.path, data)
	if err == nil && len(bytes.TrimSpace(data)) == 0 && s.Status().Services > 0 {
		// A file that is being written anew is empty for a moment. Nobody means
		// "no services" by that.
		err = configyaml.Problems{{
			File: s.path, Line: 1, Column: 1, Field: "services",
			Message: "the file is empty: write services: {} if there are none",
		}}
	}
	if err != nil {
		s.fail(err)
		return
	}
	policies := s.policies.take(s.path, data, mesh.GetPolicies(), refused)
	services := Services(mesh)
	s.Replace(services...)
	s.ReplacePolicies(policies)
	s.mu.Lock()
	s.status = Status{Path: s.path, LoadedAt: at, Services: len(services), Policies: len(policies.List)}
	s.mu.Unlock()
	s.logger.Info("mesh file is in force", "path", s.path, "services", len(services), "policies", len(policies.List))
}

// fail notes that the file is not in force as it is.
func (s *Source) fail(err error) {
	s.mu.Lock()
	first := s.status.LoadedAt.IsZero()
	if s.status.Err == nil {
		s.status.FailingSince = s.now()
	}
	s.status.Err = err
	s.mu.Unlock()
	if first {
		return // Open's caller is told
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		s.logger.Error("mesh file is not taken over, what it said before stays in force", "problem", line)
	}
}

// securities are what instances speak, as mesh files write it.
var securities = map[string]registry.Security{
	"off":        registry.SecurityPlaintext,
	"permissive": registry.SecurityPermissive,
	"strict":     registry.SecurityMTLS,
}

// Services returns the services of a mesh file whose defaults are filled in.
func Services(mesh *configv1.MeshFile) []*registry.Service {
	services := make([]*registry.Service, 0, len(mesh.GetServices()))
	for name, service := range mesh.GetServices() {
		endpoints := make([]registry.Endpoint, 0, len(service.GetEndpoints()))
		for _, e := range service.GetEndpoints() {
			endpoints = append(endpoints, registry.Endpoint{
				ID: e.GetAddress(), Address: e.GetAddress(), Weight: e.GetWeight(), Meta: e.GetMeta(), Tags: e.GetTags(),
				Security: securities[cmp.Or(e.GetTls(), service.GetTls())], Identities: service.GetIdentities(),
			})
		}
		services = append(services, &registry.Service{Name: name, GRPC: service.GetGrpc(), Endpoints: endpoints})
	}
	return services
}
