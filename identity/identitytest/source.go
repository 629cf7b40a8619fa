package identitytest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity"
)

// Source is an [identity.Source] that hands over what the test sets.
type Source struct {
	mu      sync.Mutex
	state   *identity.State
	status  identity.Status
	changed chan struct{}
}

// NewSource returns a source that hands this state over first; nil: nothing yet.
func NewSource(state *identity.State) *Source {
	return &Source{state: state, status: identity.Status{Kind: "test"}, changed: make(chan struct{})}
}

// Set hands another state over.
func (s *Source) Set(state *identity.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	close(s.changed)
	s.changed = make(chan struct{})
}

// Fail makes the source fail; nil ends that.
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Err, s.status.Since = err, time.Time{}
	if err != nil {
		s.status.Since = time.Now()
	}
}

// RenewsBy sets what the status says of that.
func (s *Source) RenewsBy(share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.RenewsBy = share
}

// Watch is that of [identity.Source].
func (s *Source) Watch(ctx context.Context, update func(*identity.State)) {
	var told *identity.State
	for {
		s.mu.Lock()
		state, changed := s.state, s.changed
		s.mu.Unlock()
		if state != told {
			told = state
			update(state)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Status is that of [identity.Source].
func (s *Source) Status() identity.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Keeper returns a keeper that has this state, and its source to rotate it. It is
// closed when the test ends.
func Keeper(t testing.TB, state *identity.State) (*identity.Keeper, *Source) {
	t.Helper()
	source := NewSource(state)
	keeper := identity.Keep(source, identity.Options{})
	t.Cleanup(keeper.Close)
	if state != nil {
		taken := make(chan struct{})
		var once sync.Once
		stop := keeper.Watch(func(*identity.State) { once.Do(func() { close(taken) }) })
		<-taken
		stop()
	}
	return keeper, source
}
