package mtls

import (
	"crypto/tls"
	"sync"

	"github.com/pillion-proxy/pillion/identity"
)

// Sessions keeps what an instance gave to begin the next connection with (RFC 8446
// section 2.2). The instance remembers by it who we were, so that it is forgotten when
// our identity changes. The zero value is ready, and safe for concurrent use.
type Sessions struct {
	mu    sync.Mutex
	state *identity.State
	// last is the newest: each ticket brings all that is needed.
	last *tls.ClientSessionState
}

// sessionsOf is what Sessions has for one state; it implements
// [tls.ClientSessionCache].
type sessionsOf struct {
	s     *Sessions
	state *identity.State
}

// of returns the cache for connections of a state; nil is none.
func (s *Sessions) of(state *identity.State) tls.ClientSessionCache {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != state {
		s.state, s.last = state, nil
	}
	return sessionsOf{s, state}
}

// Get implements tls.ClientSessionCache. The key says nothing: there is one instance.
func (c sessionsOf) Get(string) (*tls.ClientSessionState, bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.state != c.state || c.s.last == nil {
		return nil, false
	}
	return c.s.last, true
}

// Put implements tls.ClientSessionCache. A connection of an earlier state may still be
// given something.
func (c sessionsOf) Put(_ string, session *tls.ClientSessionState) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.state == c.state {
		c.s.last = session
	}
}
