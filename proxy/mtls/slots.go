package mtls

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

// errNoSlot is why a caller is turned away who waited in vain.
var errNoSlot = errors.New("too many TLS handshakes are under way, and none ended in time")

// slots bound how many handshakes are under way. While somebody waits for one, the
// oldest handshake loses its own once it has had it for as long as grace: who is slow
// on purpose holds up others by that at most.
type slots struct {
	most  int
	grace time.Duration

	mu      sync.Mutex
	held    list.List   // of *slot, the oldest first
	waiting list.List   // of *waiter
	evict   *time.Timer // runs while somebody waits
}

// slot is the right to be one of so many.
type slot struct {
	since time.Time
	// lose is told that the slot is wanted by others.
	lose func()
	told bool
	at   *list.Element
}

// waiter waits for a slot, which is there when ready is closed.
type waiter struct {
	lose  func()
	slot  *slot
	ready chan struct{}
}

func newSlots(most int, grace time.Duration) *slots {
	return &slots{most: most, grace: grace}
}

// take returns a slot, to be given back, or errNoSlot at the deadline. lose must not
// block, and may be called until the slot is given back.
func (s *slots) take(deadline time.Time, lose func()) (*slot, error) {
	s.mu.Lock()
	if s.held.Len() < s.most {
		defer s.mu.Unlock()
		return s.hold(lose), nil
	}
	w := &waiter{lose: lose, ready: make(chan struct{})}
	at := s.waiting.PushBack(w)
	s.press()
	s.mu.Unlock()

	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-w.ready:
		return w.slot, nil
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.slot != nil { // just now
		return w.slot, nil
	}
	s.waiting.Remove(at)
	return nil, errNoSlot
}

// hold makes a slot. s.mu is held.
func (s *slots) hold(lose func()) *slot {
	sl := &slot{since: time.Now(), lose: lose}
	sl.at = s.held.PushBack(sl)
	return sl
}

// giveBack ends a slot, and hands it to who waits.
func (s *slots) giveBack(sl *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.Remove(sl.at)
	if first := s.waiting.Front(); first != nil {
		w := s.waiting.Remove(first).(*waiter)
		w.slot = s.hold(w.lose)
		close(w.ready)
		s.press() // whoever has come to hold one keeps others waiting now
	}
}

// press makes the oldest handshakes lose their slots, one for each who waits, when they
// have had them for long enough. s.mu is held.
func (s *slots) press() {
	wanted := s.waiting.Len()
	now := time.Now()
	for at := s.held.Front(); at != nil && wanted > 0; at = at.Next() {
		sl := at.Value.(*slot)
		if !sl.told {
			if wait := s.grace - now.Sub(sl.since); wait > 0 {
				s.pressAgain(wait)
				return
			}
			sl.told = true
			sl.lose()
		}
		wanted--
	}
}

// pressAgain looks again later. s.mu is held.
func (s *slots) pressAgain(wait time.Duration) {
	if s.evict != nil {
		return
	}
	s.evict = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.evict = nil
		s.press()
	})
}
