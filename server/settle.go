package server

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// settling knows which connections of an http.Server are about to be answered.
// http.Server.Shutdown drops a request that it finds just read, and the connection
// with it. So it is called only once there is none.
type settling struct {
	mu      sync.Mutex
	busy    map[net.Conn]bool // new, or with a request under way
	ending  bool
	settled chan struct{} // closed when ending and none is busy
}

func newSettling() *settling {
	return &settling{busy: map[net.Conn]bool{}, settled: make(chan struct{})}
}

// changed is http.Server.ConnState.
func (s *settling) changed(nc net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		s.busy[nc] = true
	default:
		delete(s.busy, nc)
		s.look()
	}
}

// wait returns once no connection is busy, or with ctx. No connection may come any
// more, and none may stay for another request.
func (s *settling) wait(ctx context.Context) {
	s.mu.Lock()
	s.ending = true
	s.look()
	s.mu.Unlock()
	select {
	case <-s.settled:
	case <-ctx.Done():
	}
}

// look needs mu.
func (s *settling) look() {
	if !s.ending || len(s.busy) > 0 {
		return
	}
	select {
	case <-s.settled:
	default:
		close(s.settled)
	}
}
