package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// election is what a seat does where nobody is elected.
type election struct {
	*seat
	// failures is how often it has tried in vain since somebody was elected.
	failures int
	// orderly says that who was elected has said that he gives the lock back, or nobody
	// was: else the lock cannot be taken for a while.
	orderly bool
}

// await waits until something else is known.
func (e *election) await(changed <-chan struct{}, now seen) {
	timer := time.NewTimer(e.m.o.TTL)
	defer timer.Stop()
	for {
		select {
		case <-changed:
			return
		case <-e.ctx.Done():
			return
		case <-timer.C:
			if now.known && e.isOwn(now.value) {
				e.complain("this sidecar was elected, and the store has not let go of that")
			}
			timer.Reset(e.m.o.TTL)
		}
	}
}

// stand waits for its turn, looks whether still nobody is elected, and tries. changed is
// closed when something else is known.
func (e *election) stand(changed <-chan struct{}) {
	wait := waitToTry(e.m.o.Random(), e.failures)
	if !e.orderly {
		wait += lockDelay
	}
	switch e.m.o.Candidacy {
	case Candidate:
	case Reserve:
		wait += reserveAfter
	default:
		e.nobody(changed)
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
		return
	case <-e.ctx.Done():
		return
	case <-timer.C:
	}
	if err := e.try(changed); err != nil && e.ctx.Err() == nil {
		e.failures++
		if _, now := e.look(); now == changed {
			e.complain("nobody is elected: " + err.Error())
		}
	}
}

// nobody waits for others to be elected.
func (e *election) nobody(changed <-chan struct{}) {
	timer := time.NewTimer(2 * reserveAfter)
	defer timer.Stop()
	select {
	case <-changed:
		return
	case <-e.ctx.Done():
		return
	case <-timer.C:
		e.complain("nobody is elected: no sidecar that may be follows this service")
	}
	select {
	case <-changed:
	case <-e.ctx.Done():
	}
}

// errTaken says that somebody else was faster; there is nothing wrong with that.
var errTaken = errors.New("the lock is held or cannot be taken yet")

// free says whether nobody holds the lock, and how long the store took to say so.
func (e *election) free() (is bool, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(e.ctx, storeTimeout)
	defer cancel()
	began := time.Now()
	_, err = e.m.o.Store.Get(ctx, e.key)
	took = time.Since(began)
	switch {
	case err == nil:
		return false, took, nil // the watch will tell
	case !errors.Is(err, kv.ErrNotFound):
		return false, took, fmt.Errorf("the lock cannot be read: %w", err)
	}
	return true, took, nil
}

// try tries the lock, and leads if it gets it. The error says why it does not. changed is
// closed when something else is known.
func (e *election) try(changed <-chan struct{}) error {
	store := e.m.o.Store
	isFree, took, err := e.free()
	if more := waitForSlow(e.m.o.Random(), took); isFree && more > 0 {
		timer := time.NewTimer(more)
		defer timer.Stop()
		select {
		case <-changed:
			return nil
		case <-e.ctx.Done():
			return nil
		case <-timer.C:
		}
		isFree, _, err = e.free()
	}
	if err != nil || !isFree {
		return err
	}
	ctx, cancel := context.WithTimeout(e.ctx, storeTimeout)
	defer cancel()
	leader, err := e.m.card(ctx)
	if err != nil {
		return err
	}
	value, err := protojson.Marshal(leader)
	if err != nil {
		return err
	}
	session, err := store.Session(ctx, kv.SessionOptions{Name: "pillion: " + e.m.o.ID + " leads " + e.service, TTL: e.m.o.TTL, LockDelay: lockDelay})
	if err != nil {
		return fmt.Errorf("no session can be begun: %w", err)
	}
	e.seat.mu.Lock()
	e.own = value
	e.seat.mu.Unlock()
	held, err := session.TryLock(ctx, e.key, value)
	if err != nil || !held {
		// Where that fails too, the session ends by itself.
		last, cancel := e.ending()
		defer cancel()
		_ = session.Close(last)
		if err != nil {
			return fmt.Errorf("the lock cannot be taken: %w", err)
		}
		return errTaken
	}
	e.failures = 0
	e.orderly = e.lead(session, leader)
	return nil
}

// card is what this sidecar writes into the locks that it holds.
func (m *Member) card(ctx context.Context) (*controlv1.Leader, error) {
	leader := &controlv1.Leader{Id: m.o.ID, Service: m.o.Service, Address: m.o.Address, Since: timestamppb.Now()}
	if s := m.o.Security; s != nil && s.Inbound != Plaintext {
		state, err := s.Keeper.Wait(ctx)
		if err != nil {
			return nil, err
		}
		leader.Tls, leader.Identity = true, state.ID.String()
	}
	return leader, nil
}
