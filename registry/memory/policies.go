package memory

import (
	"context"

	"github.com/pillion-proxy/pillion/registry"
)

// ReplacePolicies puts these policies in the place of those known so far, and
// hands them over to who watches. They belong to the source from then on.
func (s *Source) ReplacePolicies(p *registry.Policies) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies = p
	for w := range s.policyWatches {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// WatchPolicies implements [registry.PolicySource]. States that follow each other
// faster than update takes them are left out, but for the last.
func (s *Source) WatchPolicies(ctx context.Context, update func(*registry.Policies)) {
	w := &watch{changed: make(chan struct{}, 1)}
	s.mu.Lock()
	s.policyWatches[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.policyWatches, w)
	}()
	for ctx.Err() == nil {
		s.mu.Lock()
		now := s.policies
		s.mu.Unlock()
		update(now)
		select {
		case <-ctx.Done():
		case <-w.changed:
		}
	}
}
