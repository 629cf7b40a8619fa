// Package memory is a registry source over services held in memory, which may
// be replaced as a whole at any time. Where they come from is for others.
package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/pillion-proxy/pillion/registry"
)

// Source hands over the services that it was given last. It is a
// [registry.Source].
type Source struct {
	mu sync.Mutex
	// services and answering are never changed, only replaced.
	services  map[string]*registry.Service
	answering map[string][]string
	// watches are the running calls of Watch, by service.
	watches map[string]map[*watch]struct{}
	// policies is never changed, only replaced; policyWatches are the running calls
	// of WatchPolicies.
	policies      *registry.Policies
	policyWatches map[*watch]struct{}
}

// watch is one running call of Watch.
type watch struct {
	// changed holds a token while the service may have changed since the watch
	// looked last.
	changed chan struct{}
}

var (
	_ registry.Source       = (*Source)(nil)
	_ registry.PolicySource = (*Source)(nil)
)

// New returns a source of these services. See [Source.Replace].
func New(services ...*registry.Service) *Source {
	s := &Source{
		watches: map[string]map[*watch]struct{}{}, policies: new(registry.Policies), policyWatches: map[*watch]struct{}{},
	}
	s.Replace(services...)
	return s
}

// Replace puts these services, whose names differ, in the place of those known
// so far, and hands those that differ over to who watches them. The services
// belong to the source from then on.
func (s *Source) Replace(services ...*registry.Service) {
	next := make(map[string]*registry.Service, len(services))
	answering := map[string][]string{}
	for _, service := range services {
		slices.SortFunc(service.Endpoints, func(a, b registry.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
		next[service.Name] = service
		for _, name := range service.GRPC {
			answering[name] = append(answering[name], service.Name)
		}
	}
	for _, names := range answering {
		slices.Sort(names)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.services
	for name, service := range next {
		if equal(last[name], service) {
			// The same pointer tells a watch that nothing has changed.
			next[name] = last[name]
		}
	}
	s.services, s.answering = next, answering
	for name, watches := range s.watches {
		if last[name] == next[name] {
			continue
		}
		for w := range watches {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

// Watch implements [registry.Source]. States that follow each other faster
// than update takes them are left out, but for the last.
func (s *Source) Watch(ctx context.Context, service string, update func(*registry.Service)) {
	w := &watch{changed: make(chan struct{}, 1)}
	current := s.add(service, w)
	defer s.remove(service, w)
	if ctx.Err() != nil {
		return
	}
	update(current)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		// Changed and changed back in the meantime is not changed.
		if next := s.get(service); next != current {
			current = next
			update(current)
		}
	}
}

func (s *Source) add(service string, w *watch) *registry.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[service] == nil {
		s.watches[service] = map[*watch]struct{}{}
	}
	s.watches[service][w] = struct{}{}
	return s.services[service]
}

func (s *Source) remove(service string, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches[service], w)
	if len(s.watches[service]) == 0 {
		delete(s.watches, service)
	}
}

func (s *Source) get(service string) *registry.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[service]
}

// Answering implements [registry.Source].
func (s *Source) Answering(_ context.Context, grpcService string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.answering[grpcService]), nil
}

// Services implements [registry.Source].
func (s *Source) Services(context.Context) ([]string, error) {
	s.mu.Lock()
	services := s.services
	s.mu.Unlock()
	return slices.Sorted(maps.Keys(services)), nil
}

func equal(a, b *registry.Service) bool {
	return a != nil && b != nil && a.Name == b.Name && a.Stale == b.Stale &&
		slices.Equal(a.GRPC, b.GRPC) && slices.EqualFunc(a.Endpoints, b.Endpoints, equalEndpoint)
}

func equalEndpoint(a, b registry.Endpoint) bool {
	return a.ID == b.ID && a.Address == b.Address && a.Weight == b.Weight &&
		maps.Equal(a.Meta, b.Meta) && slices.Equal(a.Tags, b.Tags) &&
		a.Security == b.Security && slices.Equal(a.Identities, b.Identities) && a.ServerName == b.ServerName
}
