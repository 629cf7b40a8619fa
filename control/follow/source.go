package follow

import (
	"context"
	"sync"

	"github.com/pillion-proxy/pillion/registry"
)

// Source returns a source of services that follows each for as long as it is watched, and
// tells of it only once its documents are in force: an RPC that came before would obey
// none.
func (f *Follower) Source(of registry.Source) registry.Source { return &source{of, f} }

type source struct {
	registry.Source
	f *Follower
}

// Watch implements registry.Source.
func (s *source) Watch(ctx context.Context, service string, update func(*registry.Service)) {
	release := s.f.follow(service, true)
	defer release()
	var (
		mu      sync.Mutex // calls to update never overlap
		known   bool
		settled bool
		last    *registry.Service
		waiting sync.WaitGroup
	)
	below, cancel := context.WithCancel(ctx)
	waiting.Go(func() {
		s.f.Await(below, service)
		mu.Lock()
		defer mu.Unlock()
		settled = true
		if known && below.Err() == nil {
			update(last)
		}
		last = nil
	})
	defer waiting.Wait()
	defer cancel()
	s.Source.Watch(ctx, service, func(now *registry.Service) {
		mu.Lock()
		defer mu.Unlock()
		if known = true; settled {
			update(now)
			return
		}
		last = now
	})
}
