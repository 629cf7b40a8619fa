package sidecar

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/control/follow"
	"github.com/pillion-proxy/pillion/registry"
)

// Known is what a sidecar knows that its successor would have to find out first.
type Known struct {
	// Services are those that are watched in a registry that may be away; Older those
	// that nobody has watched since a process before.
	Services []*registry.Service `json:"services,omitempty"`
	Older    []*registry.Service `json:"older,omitempty"`
	// Documents are those of the mesh that hold; nil: none are followed.
	Documents *follow.Handed `json:"documents,omitempty"`
}

// Estate returns what a process that replaces this one takes over.
func (s *Sidecar) Estate() handover.Estate {
	var sockets []handover.Socket
	for _, side := range slices.Sorted(maps.Keys(s.listeners)) {
		sockets = append(sockets, s.listeners[side].Socket)
	}
	var known Known
	if s.source.consul != nil {
		known.Services, known.Older = s.source.consul.LastKnown()
	}
	if s.control != nil {
		known.Documents = s.control.follower.HandOver()
	}
	return handover.Estate{Sockets: sockets, Known: known}
}

// Stay has the sidecar drain no sooner than Resume or Succeeded says whether there is a
// successor. Where it drains already Stay does nothing but say so.
func (s *Sidecar) Stay() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving.Load() {
		return errors.New("this process has begun to drain")
	}
	s.undecided = make(chan struct{})
	return nil
}

// Resume undoes Stay: there is no successor after all.
func (s *Sidecar) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.undecided != nil {
		close(s.undecided)
		s.undecided = nil
	}
}

// depart has the sidecar drain, and returns once it is known whether a successor serves.
// That takes no time, or as long as the upgrade that is under way.
func (s *Sidecar) depart() {
	s.mu.Lock()
	s.leaving.Store(true)
	undecided := s.undecided
	s.mu.Unlock()
	if undecided != nil {
		<-undecided
	}
}

// Succeeded says that a successor serves in this sidecar's place, and which of the
// estate's sockets it has taken: the files of those that are Unix sockets stay. When it
// returns, every connection that is made there is the successor's, and so is what only
// one process may hold, the registration, which stands as it stood. Run drains then, and
// returns.
func (s *Sidecar) Succeeded(took func(n int) bool) {
	s.successor.Do(func() {
		for n, side := range slices.Sorted(maps.Keys(s.listeners)) {
			l := s.listeners[side]
			if !took(n) {
				continue
			}
			handover.KeepFile(l.Listener, true)
			if side != sideAdmin { // whose server ends when it loses its listener
				_ = l.Close()
			}
		}
		if r := s.currentRegistration(); r != nil {
			r.Release()
		}
		close(s.succeeded)
		s.Resume()
	})
}

func (s *Sidecar) hasSuccessor() bool {
	select {
	case <-s.succeeded:
		return true
	default:
		return false
	}
}

// Alone says that the process which this one replaces is out of the way: it takes no
// connections any more, and has let go of the registration. The files of Unix sockets
// are removed when this one ends, but for those that are borrowed. It is to be called
// once, where Options.Replaces is set.
func (s *Sidecar) Alone() {
	for _, l := range s.listeners {
		handover.KeepFile(l.Listener, l.Borrowed)
	}
	close(s.alone)
}

// makeWay ends all sides at once: whoever is told to go finds the successor at the
// same address. The app needs no outbound side here to finish what it does.
func (s *Sidecar) makeWay(ctx context.Context, note func(string, error)) {
	var (
		sides sync.WaitGroup
		mu    sync.Mutex
	)
	noting := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		note(what, err)
	}
	sides.Go(func() { s.shutInbound(ctx, noting) })
	sides.Go(func() { s.shutOutbound(ctx, noting) })
	if s.admin != nil {
		sides.Go(func() { _ = s.admin.Shutdown(ctx) }) // whoever still looks then is cut off
	}
	sides.Wait()
}
