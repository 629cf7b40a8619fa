package consul

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/registry"
)

// maxLastKnown bounds what one look through the folder reads, in bytes.
const maxLastKnown = 64 << 20

// all returns what is kept of all services, by their names. It is for a sidecar
// that was restarted while Consul is away: it watches nothing yet, and is asked
// who answers. What cannot be read is left out.
func (c *cache) all() []*registry.Service {
	if c == nil {
		return nil
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil // there is none, or saving says what is wrong with it
	}
	var (
		services []*registry.Service
		left     int64 = maxLastKnown
	)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), cacheSuffix) || strings.HasPrefix(entry.Name(), ".tmp-") {
			continue
		}
		content, err := readAtMost(filepath.Join(c.dir, entry.Name()), min(left, int64(c.limits.CacheFileBytes)))
		if err != nil {
			continue
		}
		left -= int64(len(content))
		var head struct {
			Service string `json:"service"`
		}
		// A file that stands under another's name is not what it says.
		if json.Unmarshal(content, &head) != nil || filepath.Base(c.path(head.Service)) != entry.Name() {
			continue
		}
		if service, err := decodeCache(&c.limits, c.scope, head.Service, content); err == nil {
			services = append(services, service)
		}
	}
	slices.SortFunc(services, func(a, b *registry.Service) int { return strings.Compare(a.Name, b.Name) })

	return services
}

// readAtMost reads a file that is no longer than limit, in bytes; else it is an
// error.
func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()

	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = errors.New("is too long")
	}

	return content, err
}

// LastKnown returns the services that are watched, as they are known now, for a process
// that replaces this one; and older, what this one had from the process before it of
// services that it has not watched.
func (s *Source) LastKnown() (services, older []*registry.Service) {
	for _, w := range s.watches() {
		if service, _ := w.state(); service != nil {
			known := *service
			known.Name = w.name // the name that it was asked for by
			services = append(services, &known)
		}
	}

	return services, s.notWatchedYet()
}

// notWatchedYet returns the services that were inherited and not watched yet.
func (s *Source) notWatchedYet() []*registry.Service {
	s.mu.Lock()
	defer s.mu.Unlock()

	return slices.SortedFunc(maps.Values(s.inherited), func(a, b *registry.Service) int { return strings.Compare(a.Name, b.Name) })
}

// lastKnownAnswering returns the services that said, when they were seen last,
// that they answer a gRPC service: those that are watched, else those that were
// inherited or stand on disk.
func (s *Source) lastKnownAnswering(grpcService string) []string {
	names := s.watchedAnswering(grpcService)
	if len(names) > 0 {
		return names
	}
	for _, service := range s.notWatchedYet() {
		if slices.Contains(service.GRPC, grpcService) {
			names = append(names, service.Name)
		}
	}
	if len(names) > 0 {
		return onceEach(names)
	}
	for _, service := range s.cache.all() {
		if slices.Contains(service.GRPC, grpcService) {
			names = append(names, service.Name)
		}
	}

	return onceEach(names)
}

// onceEach leaves out "greeter.dc1" beside "greeter": the same service, or another
// datacentre's, was asked for by a longer name, which Consul's catalogue does not list.
// Together they would be two that answer, between which nobody can decide.
func onceEach(names []string) []string {
	all := slices.Clone(names)

	return slices.DeleteFunc(names, func(name string) bool {
		dot := strings.LastIndexByte(name, '.')

		return dot > 0 && slices.Contains(all, name[:dot])
	})
}

// watchedAnswering returns those of the services that are watched which say that
// they answer a gRPC service.
func (s *Source) watchedAnswering(grpcService string) (names []string) {
	for _, w := range s.watches() {
		if w.answers(grpcService) {
			names = append(names, w.name)
		}
	}

	return onceEach(names)
}

// lastKnown returns the names of the services that were seen last: by Services,
// by those who watch, and on disk.
func (s *Source) lastKnown() []string {
	s.mu.Lock()
	names := slices.Clone(s.names)
	s.mu.Unlock()
	services, older := s.LastKnown()
	for _, service := range slices.Concat(services, older) {
		names = append(names, service.Name)
	}
	for _, service := range s.cache.all() {
		names = append(names, service.Name)
	}
	slices.Sort(names)

	return slices.Compact(names)
}
