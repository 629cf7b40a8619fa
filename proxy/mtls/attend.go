package mtls

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/identity"
)

const (
	// drainSpread is over how long connections are drained at most when there is a new
	// certificate to show.
	drainSpread = 30 * time.Second
	// runsOut is the share of its lifetime after which a peer's certificate is about to
	// end.
	runsOut = 0.9
	// lookAgain is how long nobody looks at the clock: timers stand still while a
	// machine sleeps, certificates do not.
	lookAgain = time.Minute
)

// Watched is told what becomes of an attended connection.
type Watched struct {
	// End says that what the peer has proven holds no longer, and why: its RPCs are to
	// be ended at once. It is called once at most, and nothing after it.
	End func(reason error)
	// Drain says that a new connection should replace this one, and that there is time
	// for that. It is called once at most.
	Drain func()
}

// Attend looks after a connection until stop is called: its end comes when a certificate
// of the peer's chain expires, or when by the roots of the day it is not believed any
// more; it is to be drained when there is another certificate of our own to show, spread
// over half a minute or a tenth of what the old one has left, whichever is less, and when
// nine tenths of the lifetime of the peer's are over. A call may be under way when stop
// returns. Connections in plaintext are not attended.
func (t *TLS) Attend(c *Conn, w Watched) (stop func()) {
	if c.peer == nil {
		return func() {}
	}
	return t.attending.add(c, w)
}

// attending holds the connections that are attended.
type attending struct {
	t       *TLS
	unwatch func()

	mu    sync.Mutex
	all   map[*attended]struct{}
	state *identity.State // the newest
	// verifying: a goroutine has those verified anew that need it.
	verifying bool
	closed    bool
	ended     sync.WaitGroup
}

func (a *attending) start(t *TLS) {
	a.t, a.all = t, make(map[*attended]struct{})
	a.unwatch = t.o.Keeper.Watch(a.changed)
}

func (a *attending) close() {
	a.unwatch()
	a.mu.Lock()
	a.closed = true
	for at := range a.all {
		at.timer.Stop()
	}
	clear(a.all)
	a.mu.Unlock()
	a.ended.Wait()
}

// attended is one connection. Its fields are guarded by attending.mu.
type attended struct {
	c       *Conn
	w       Watched
	timer   *time.Timer
	state   *identity.State // by which it was verified last
	expires time.Time
	drainAt time.Time
	drained bool
}

func (a *attending) add(c *Conn, w Watched) (stop func()) {
	now := a.t.o.Now()
	at := &attended{c: c, w: w, state: c.state, expires: c.peer.NotAfter}
	leaf := c.peer.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at.drainAt = leaf.NotBefore.Add(time.Duration(float64(life) * (runsOut + rand.Float64()*(1-runsOut)/2)))
	if !at.drainAt.After(now) {
		// Who comes with little time left is not sent away at once: he has no better.
		at.drainAt = now.Add(at.expires.Sub(now) / 2)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return func() {}
	}
	a.all[at] = struct{}{}
	at.timer = time.AfterFunc(time.Hour, func() { a.look(at) })
	a.plan(at, now)
	if a.state != nil {
		a.renewed(at, now)
		if at.state != a.state {
			a.verifyAnew()
		}
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.drop(at)
	}
}

// drop lets go of a connection. a.mu is held.
func (a *attending) drop(at *attended) {
	delete(a.all, at)
	at.timer.Stop()
}

// plan sets the timer for what is next. a.mu is held.
func (a *attending) plan(at *attended, now time.Time) {
	next := at.expires
	if !at.drained && at.drainAt.Before(next) {
		next = at.drainAt
	}
	at.timer.Reset(max(0, min(next.Sub(now)+time.Millisecond, lookAgain)))
}

// look does what it is time for.
func (a *attending) look(at *attended) {
	now := a.t.o.Now()
	a.mu.Lock()
	if _, there := a.all[at]; !there {
		a.mu.Unlock()
		return
	}
	if now.After(at.expires) {
		a.drop(at)
		a.mu.Unlock()
		at.w.End(fmt.Errorf("the certificate of %s has expired at %s", at.c.peer.ID, at.expires.UTC().Format(time.RFC3339)))
		return
	}
	drain := !at.drained && !now.Before(at.drainAt)
	at.drained = at.drained || drain
	a.plan(at, now)
	a.mu.Unlock()
	if drain {
		at.w.Drain()
	}
}

// changed is told of each new state.
func (a *attending) changed(state *identity.State) {
	now := a.t.o.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = state
	for at := range a.all {
		a.renewed(at, now)
	}
	a.verifyAnew()
}

// renewed has a connection drained on which another certificate of ours is shown than
// the newest. a.mu is held.
func (a *attending) renewed(at *attended, now time.Time) {
	if at.drained || a.state.Certificate == nil || at.c.shown.Certificate == a.state.Certificate || at.c.shown.SameCertificate(a.state) {
		return
	}
	left := at.c.shown.Expiry().Sub(now)
	drainAt := now.Add(time.Duration(rand.Float64() * float64(max(0, min(drainSpread, left/10)))))
	if drainAt.Before(at.drainAt) {
		at.drainAt = drainAt
		a.plan(at, now)
	}
}

// verifyAnew begins to verify those anew that were verified by other roots. a.mu is held.
func (a *attending) verifyAnew() {
	if a.verifying || a.closed {
		return
	}
	if queue := a.stale(); len(queue) > 0 {
		a.verifying = true
		a.ended.Go(func() { a.verifyAll(queue) })
	}
}

// stale returns those that were verified by other roots than the newest. a.mu is held.
func (a *attending) stale() (queue []*attended) {
	same := make(map[*identity.State]bool)
	for at := range a.all {
		if at.state == a.state {
			continue
		}
		is, known := same[at.state]
		if !known {
			is = at.state.SameRoots(a.state)
			same[at.state] = is
		}
		if is {
			at.state = a.state
		} else {
			queue = append(queue, at)
		}
	}
	return queue
}

// verifyAll verifies one after the other, those too that become stale meanwhile.
func (a *attending) verifyAll(queue []*attended) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(queue) > 0 && !a.closed {
		for _, at := range queue {
			a.verify(at)
		}
		queue = a.stale()
	}
	a.verifying = false
}

// verify verifies a connection's peer by the newest state. As a step of a handshake
// does, it takes a turn, and makes way for others first. a.mu is held, though not all
// the time.
func (a *attending) verify(at *attended) {
	state := a.state
	if _, there := a.all[at]; !there || at.state == state || a.closed {
		return
	}
	a.mu.Unlock()
	if a.t.turns.take() {
		at.c.makeWay()
	}
	now := a.t.o.Now()
	peer, err := state.Verify(at.c.peer.Chain, at.c.usage, now)
	a.t.turns.giveBack()
	a.mu.Lock()
	if _, there := a.all[at]; !there {
		return
	}
	if err == nil {
		at.state, at.expires = state, peer.NotAfter
		a.plan(at, now)
		return
	}
	a.drop(at)
	a.mu.Unlock()
	at.w.End(fmt.Errorf("the peer is not believed any more: its certificate %w", err))
	a.mu.Lock()
}
