package mesh

import (
	"context"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/identity"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// lead leads a service by the lock that a session holds, until that is lost or not wanted
// any more. It says whether the lock was given back in order.
func (s *seat) lead(session kv.Session, leader *controlv1.Leader) (orderly bool) {
	log := s.m.o.Logger.With("service", s.service)
	log.Info("this sidecar is elected to decide on the service's canaries and experiments")
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	st := newStation(s.m, s.service, leader)
	st.begin(s.m.o.Lead(ctx, s.service, kv.Fence(s.m.o.Store, s.key, session), st.publish))
	s.seated(st)
	var own sync.WaitGroup
	own.Go(func() { s.reportToSelf(ctx, st) })
	own.Go(func() { s.obeySelf(st) })

	why, lost := s.holds(session, leader)
	log.Info("this sidecar is not elected any more", "reason", why)
	cancel() // first of all: nothing is to be decided any more
	s.seated(nil)
	st.end(!lost)
	own.Wait()
	last, done := s.ending()
	defer done()
	if !lost {
		orderly = session.Unlock(last, s.key) == nil
	}
	_ = session.Close(last) // it may be lost, or ends by itself
	return orderly
}

// seated says where those report who report to this sidecar; nil: nobody does.
func (s *seat) seated(st *station) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.station = st
	s.problem = ""
	s.since = time.Time{}
	if st != nil {
		s.since = time.Now()
	}
}

// holds waits until the lock is not held, or is to be given back: why, and whether it is
// lost.
func (s *seat) holds(session kv.Session, leader *controlv1.Leader) (why string, lost bool) {
	changedID := make(chan struct{})
	if leader.GetIdentity() != "" {
		var once sync.Once
		defer s.m.o.Security.Keeper.Watch(func(state *identity.State) {
			if state.ID != (spiffeid.ID{}) && state.ID.String() != leader.GetIdentity() {
				once.Do(func() { close(changedID) })
			}
		})()
	}
	var over <-chan time.Time
	if s.m.o.Candidacy == Reserve && leader.GetAddress() == "" {
		timer := time.NewTimer(term)
		defer timer.Stop()
		over = timer.C
	}
	confirmed := false // the watch has told of this lock; before that it tells of earlier ones
	for {
		now, changed := s.look()
		own := s.isOwn(now.value)
		if confirmed && !own {
			return "the lock is gone", true
		}
		confirmed = confirmed || own
		select {
		case <-session.Done():
			return "the session is lost, or may be", true
		case <-s.ctx.Done():
			return "it is not needed any more", false
		case <-changedID:
			return "the sidecar's identity is another one", false
		case <-over:
			return "others cannot reach this sidecar, and somebody whom they can may be there now", false
		case <-changed:
		}
	}
}

// self is what this sidecar's own reports begin with.
func (s *seat) self() *meshv1.Hello {
	id := spiffeid.ID{}
	if sec := s.m.o.Security; sec != nil {
		if state := sec.Keeper.Current(); state != nil {
			id = state.ID
		}
	}
	o := &s.m.o
	return &meshv1.Hello{Id: o.ID, Service: o.Service, Process: numberOf(id, o.ID, o.Process), About: s.service}
}

// reportToSelf takes this sidecar's own counts.
func (s *seat) reportToSelf(ctx context.Context, st *station) {
	from := s.self()
	_ = s.report(ctx, func(r *meshv1.ReportRequest) error {
		st.take(from, r)
		return nil
	})
}

// obeySelf has this sidecar do what it has decided, to the last of it: a roll-back that was
// decided just before the end, and could not be written, is nowhere else.
func (s *seat) obeySelf(st *station) {
	seq := uint64(0)
	for over := false; ; {
		said, at, changed := st.since(seq)
		seq = at
		s.obey(said)
		if over {
			return
		}
		select {
		case <-changed:
		case <-st.ended:
			over = true
		}
	}
}

// isBeat says whether nothing is said but that somebody is there.
func isBeat(said *meshv1.ReportResponse) bool {
	return len(said.GetStates()) == 0 && len(said.GetThresholds()) == 0 && len(said.GetSources()) == 0
}

// obey hands over what was decided.
func (s *seat) obey(said *meshv1.ReportResponse) {
	if isBeat(said) {
		return
	}
	s.counting.Lock()
	defer s.counting.Unlock()
	if hearing, ok := s.m.o.Counting.(Hearing); ok && len(said.GetSources()) > 0 {
		hearing.Hear(s.service, said.GetSources())
	}
	if len(said.GetStates()) > 0 || len(said.GetThresholds()) > 0 {
		s.m.o.Counting.Obey(s.service, said.GetStates(), said.GetThresholds())
	}
}
