package mesh

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// seat is a member's place at one active service. Its goroutine goes round between
// three states, by what the watch of the lock says:
//
//	nobody is elected      stand: wait, look again, try the lock   election.go
//	this sidecar is        lead, until the lock is lost or given   leading.go
//	another is             follow: report to it                    reporter.go
type seat struct {
	m       *Member
	service string
	key     string
	// urgent has room for one.
	urgent chan struct{}
	// counting is held while Counting is called.
	counting sync.Mutex

	ctx    context.Context // ended by leave
	cancel context.CancelFunc
	over   chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	leaving *time.Timer     // nil: the service is active
	last    context.Context // bounds what is said to the store at the end; nil: storeTimeout does
	seen    seen
	changed chan struct{} // closed when there is something else in seen
	own     []byte        // what this sidecar wrote into the lock last
	station *station      // nil: this sidecar is not elected
	since   time.Time     // see Status
	problem string
}

// seen is what the watch has told of the lock.
type seen struct {
	known  bool
	value  []byte            // nil: nobody holds it
	leader *controlv1.Leader // nil also where the value cannot be read
}

func newSeat(m *Member, service string) *seat {
	s := &seat{
		m: m, service: service, key: control.LeaderKey(service), urgent: make(chan struct{}, 1),
		over: make(chan struct{}), changed: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(m.ctx)
	return s
}

// stay has the seat go on. It is false where it is too late for that.
func (s *seat) stay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving != nil {
		s.leaving.Stop()
		s.leaving = nil
	}
	return s.ctx.Err() == nil
}

// leaveLater has it end after a while, unless it is told to stay.
func (s *seat) leaveLater(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving != nil {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.leaving == timer {
			s.cancel()
		}
	})
	s.leaving = timer
}

// leave has it end at once; last bounds what is said to the store.
func (s *seat) leave(last context.Context) {
	s.mu.Lock()
	s.last = last
	if s.leaving != nil {
		s.leaving.Stop()
	}
	s.mu.Unlock()
	s.cancel()
}

// ending is what bounds the last words to the store.
func (s *seat) ending() (context.Context, context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	if last == nil {
		last = context.WithoutCancel(s.ctx)
	}
	return context.WithTimeout(last, storeTimeout)
}

// run is the goroutine.
func (s *seat) run() {
	defer close(s.over)
	defer s.cancel()
	var watching sync.WaitGroup
	watching.Go(func() { s.m.o.Store.Watch(s.ctx, s.key, s.saw) })
	defer watching.Wait()
	e := election{seat: s, orderly: true}
	for s.ctx.Err() == nil {
		now, changed := s.look()
		switch {
		case !now.known || s.isOwn(now.value):
			// Nothing is known yet, or it is not known yet that the own lock is gone.
			e.await(changed, now)
		case now.value == nil:
			e.stand(changed)
		case now.leader == nil:
			s.complain("the lock " + s.key + " does not say who holds it")
			e.await(changed, now)
		default:
			e.orderly = s.follow(now)
			e.failures = 0
		}
	}
}

// saw takes what the watch tells.
func (s *seat) saw(state kv.State) {
	if !state.Known {
		if state.Err != nil {
			s.complain("it is not known who is elected: " + state.Err.Error())
		}
		return
	}
	now := seen{known: true}
	for _, e := range state.Entries {
		if e.Key != s.key { // it may be the beginning of others
			continue
		}
		now.value = e.Value
		leader := new(controlv1.Leader)
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, leader); err == nil {
			now.leader = leader
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen.known && string(s.seen.value) == string(now.value) && (s.seen.value == nil) == (now.value == nil) {
		return
	}
	if !s.seen.known {
		s.problem = "" // which was that nothing is known
	}
	s.seen = now
	close(s.changed)
	s.changed = make(chan struct{})
}

// look returns what the watch told last, and what is closed when it tells something else.
func (s *seat) look() (seen, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.changed
}

// isOwn says whether this sidecar has written a lock's value.
func (s *seat) isOwn(value []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return value != nil && s.own != nil && string(value) == string(s.own)
}

// complain says what is wrong; "": nothing is.
func (s *seat) complain(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = problem
}

// settled says since when the sidecar reports to the elected one, or is it; zero: it does
// not.
func (s *seat) settled(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// led returns where those report who report to this sidecar; nil: it is not elected.
func (s *seat) led() *station {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.station
}

func (s *seat) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Service: s.service, Leader: s.seen.leader, Since: s.since, Problem: s.problem}
	if s.station != nil {
		status.Leading, status.Leader, status.Reporters = true, s.station.leader, s.station.count()
	}
	return status
}
