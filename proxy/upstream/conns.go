package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// connState is how far a connection has come: it is connecting until the peer's
// SETTINGS are there, and then in use until it takes no more streams.
type connState uint8

const (
	connConnecting connState = iota
	connInUse
	connGone
)

// conn is one connection to an instance.
type conn struct {
	*h2.Conn
	nc net.Conn
	// settled keeps the connect timeout from ending the connection; it is false
	// where it comes too late for that.
	settled func() bool

	// Guarded by Instance.mu.

	state connState
	gone  bool // no longer used, and counted as draining
	ours  bool // it ends because we want it to
	// retiring: it ends once another one is there.
	retiring bool
	timer    *time.Timer
	born     time.Time
	old      time.Duration // the age at which it ends; 0: none
}

// wantsConn says whether one more connection would help those who wait. in.mu is
// held.
func (in *Instance) wantsConn() bool {
	if in.dialing || in.closed || in.draining >= in.opts.MaxDraining {
		return false
	}
	conns := *in.conns.Load()
	if len(conns) > 0 && in.backoff.holds() {
		return false // the last try failed; the connections there are have to do
	}
	for _, c := range conns {
		// A peer that allows no streams has to be waited for, however many
		// connections there are.
		if st := c.Stats(); !st.Draining && st.MaxStreams == 0 {
			return false
		}
	}
	return len(conns) < in.opts.MaxConns
}

// obey takes over what a policy says of each instance.
func (in *Instance) obey(p *Policy) {
	in.connect.Store(int64(p.ConnectTimeout))
	in.measure(p)
}

// connectTimeout bounds the opening of a connection.
func (in *Instance) connectTimeout() time.Duration {
	return cmp.Or(time.Duration(in.connect.Load()), in.opts.ConnectTimeout)
}

// dial makes a connection in the background. in.mu is held.
func (in *Instance) dial() {
	in.dialing = true
	ctx, cancel := context.WithTimeout(context.Background(), in.connectTimeout())
	in.cancel = cancel
	if len(*in.conns.Load()) == 0 {
		in.slowly = time.AfterFunc(in.opts.SlowConnect, in.connectsSlowly)
	}
	go func() {
		defer cancel()
		nc, err := in.open(ctx)
		if err != nil {
			var b h2.Batch
			in.dialFailed(&b, err)
			b.Done()
			return
		}
		in.serve(ctx, nc)
	}()
}

// connectsSlowly sends those who wait elsewhere, if there is somewhere else, and
// has new RPCs go there first.
func (in *Instance) connectsSlowly() {
	in.mu.Lock()
	if !in.dialing || in.closed || len(*in.conns.Load()) > 0 {
		in.mu.Unlock()
		return
	}
	in.slow.Store(true)
	in.lost()
	tickets := in.takeWaiting(in.waiting.len)
	in.mu.Unlock()
	var b h2.Batch
	tell(&b, tickets, ErrConnectsSlowly)
	b.Done()
}

// dialled notes that a dial is over, well or not. in.mu is held.
func (in *Instance) dialled() {
	in.dialing, in.cancel = false, nil
	in.slow.Store(false)
	if in.slowly != nil {
		in.slowly.Stop()
	}
}

// serve carries a connection until it ends. No stream is opened before the
// peer's SETTINGS are there: a kernel accepts connections for a process that is
// about to die, and what had been sent there could not go elsewhere.
func (in *Instance) serve(ctx context.Context, nc net.Conn) {
	hc := h2.New(h2.NewTransport(nc), h2.Client, in.opts.HTTP2, (*handler)(in))
	c := &conn{Conn: hc, nc: nc}
	hc.Data = c
	defer in.attend(c)()
	c.settled = context.AfterFunc(ctx, func() {
		var b h2.Batch
		why := "no SETTINGS within the connect timeout"
		if hc.Stats().Settled {
			why = "the instance allowed no streams within the connect timeout"
		}
		hc.Abort(&b, h2.SettingsTimeout, why)
		b.Done()
	})
	hc.Serve()
	c.settled()
}

// dialFailed leaves the instance alone for a while, and sends those who wait
// elsewhere, unless it has connections.
func (in *Instance) dialFailed(b *h2.Batch, err error) {
	in.mu.Lock()
	in.dialled()
	if in.closed {
		in.mu.Unlock()
		return
	}
	err = fmt.Errorf("connecting to %s: %w", in.address, err)
	in.counts.ConnectFailures.Add(1)
	in.backoff.failed(in.opts, err, in.dialAgain)
	tickets := in.leaveAlone()
	in.mu.Unlock()
	tell(b, tickets, err)
}

// maxTurnedAway is how often in a row an instance is connected to anew at once.
const maxTurnedAway = 3

// tryAtOnce connects anew to an instance that has turned a connection away in peace
// before it was of use: the process that took it is being replaced by another, which
// takes the next one, and those who wait need not be told. in.mu is held.
func (in *Instance) tryAtOnce() bool {
	if in.closed || in.turnedAway >= maxTurnedAway {
		return false
	}
	in.turnedAway++
	in.dialled()
	in.dial()
	return true
}

// workedWell has the next back-off begin at its base. While the instance cannot be
// connected to anew, what comes of a connection that was there already proves
// nothing. in.mu is held.
func (in *Instance) workedWell() {
	if in.failing.Load() && !in.avoided.Load() && !in.backoff.holds() {
		in.failing.Store(false)
		in.backoff.succeeded()
	}
}

// notAgain leaves the instance alone for a while because of a connection that was
// bad, unless it was the first of them: whatever it was may have been an accident,
// and a restart. It returns those who wait in vain. in.mu is held.
func (in *Instance) notAgain(err error) []ticket {
	switch {
	case !in.failing.Load():
		in.failing.Store(true)
		in.backoff.failures++
		return nil
	case !in.backoff.holds():
		in.backoff.failed(in.opts, err, in.dialAgain)
	}
	return in.leaveAlone()
}

// leaveAlone has the instance avoided because of its back-off, unless it has
// connections, and returns those who wait in vain. in.mu is held.
func (in *Instance) leaveAlone() []ticket {
	in.failing.Store(true)
	if len(*in.conns.Load()) > 0 {
		return nil
	}
	in.avoided.Store(true)
	in.lost()
	return in.takeWaiting(in.waiting.len)
}

// dialAgain is called when the back-off is over.
func (in *Instance) dialAgain() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.closed && !in.dialing && (in.avoided.Load() || in.waiting.len > 0 && in.wantsConn() || in.wantsRenewal()) {
		in.dial()
	}
}

// connected takes a new connection into use and lets those who wait open their
// streams.
func (in *Instance) connected(b *h2.Batch, c *conn) {
	st := c.Stats()
	if st.Draining {
		return // it goes away at once, and OnConnClosed does the rest
	}
	if st.MaxStreams == 0 {
		return // as good as no SETTINGS, until it allows one or the time is over
	}
	if !c.settled() {
		return // too late: it is being aborted
	}
	now := time.Now()
	in.mu.Lock()
	if c.state != connConnecting || in.closed {
		in.mu.Unlock()
		c.Shutdown(b)
		return
	}
	in.dialled()
	in.turnedAway = 0
	in.backoff.connected()
	in.avoided.Store(false)
	in.counts.Connections.Add(1)
	c.state, c.born = connInUse, now
	if in.opts.MaxAge > 0 {
		c.old = time.Duration(float64(in.opts.MaxAge) * (0.9 + 0.2*in.opts.Jitter()))
	}
	replaced := in.takeRetiring()
	conns := append([]*conn{c}, *in.conns.Load()...) // the new one has most room
	in.conns.Store(&conns)
	c.timer = time.AfterFunc(c.nextLook(in.opts, now), func() { in.look(c) })
	in.mu.Unlock()
	in.wake(b, c)
	in.endGently(replaced...)
	in.dialMore()
}

// watchStuck sees to it that nobody waits long for connections that let nobody in.
// in.mu is held.
func (in *Instance) watchStuck() {
	if in.stuck == nil {
		in.stuck = time.AfterFunc(in.opts.SlowConnect, in.unblock)
	}
}

// blocked says that whoever waits cannot be let in, however many streams end: the
// peer allows none at all any more, or there is no connection, and none may be made.
// in.mu is held.
func (in *Instance) blocked() bool {
	for _, c := range *in.conns.Load() {
		if c.Stats().MaxStreams > 0 {
			return false
		}
	}
	return !in.dialing
}

// unblock sends those who wait elsewhere, if there is somewhere else, and replaces
// the connections that allow no streams.
func (in *Instance) unblock() {
	in.mu.Lock()
	in.stuck = nil
	if in.closed || in.waiting.len == 0 {
		in.mu.Unlock()
		return
	}
	if in.slow.Load() || !in.blocked() {
		in.watchStuck() // it may come to that yet
		in.mu.Unlock()
		return
	}
	in.slow.Store(true)
	in.lost()
	conns := *in.conns.Load()
	for _, c := range conns {
		c.ours = true
		in.dropped(c)
	}
	if in.wantsConn() {
		in.dial()
	}
	tickets := in.takeWaiting(in.waiting.len)
	in.mu.Unlock()
	var b h2.Batch
	for _, c := range conns {
		in.unwatch(&b, c)
		c.Shutdown(&b)
	}
	tell(&b, tickets, ErrConnectsSlowly)
	b.Done()
}

// dialMore opens another connection if somebody still waits whom it would help, or
// if nobody comes any more because unblock could not have one made.
func (in *Instance) dialMore() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if (in.waiting.len > 0 || in.slow.Load() && !in.avoided.Load()) && in.wantsConn() || in.wantsRenewal() {
		in.dial()
	}
}

// dropped takes a connection out of use; what it has under way goes on. in.mu is
// held.
func (in *Instance) dropped(c *conn) {
	if c.state == connInUse && !c.gone {
		c.gone = true
		in.draining++
	}
	old := *in.conns.Load()
	conns := make([]*conn, 0, len(old))
	for _, o := range old {
		if o != c {
			conns = append(conns, o)
		}
	}
	in.conns.Store(&conns)
}

// nextLook says when the connection may be idle or old next.
func (c *conn) nextLook(o *Options, now time.Time) time.Duration {
	next := time.Hour
	if o.IdleTimeout > 0 {
		next = o.IdleTimeout
		if since := c.Stats().IdleSince; !since.IsZero() {
			next = max(o.IdleTimeout-now.Sub(since), time.Millisecond)
		}
	}
	if c.old > 0 {
		next = min(next, max(c.old-now.Sub(c.born), time.Millisecond))
	}
	return next
}

// look ends a connection that is idle or old.
func (in *Instance) look(c *conn) {
	now := time.Now()
	st := c.Stats()
	idle := in.opts.IdleTimeout > 0 && !st.IdleSince.IsZero() && now.Sub(st.IdleSince) >= in.opts.IdleTimeout
	if idle || c.old > 0 && now.Sub(c.born) >= c.old {
		var b h2.Batch
		in.mu.Lock()
		c.ours = true
		in.dropped(c)
		in.mu.Unlock()
		in.dialMore()
		in.unwatch(&b, c)
		c.Shutdown(&b)
		b.Done()
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !st.Draining && !in.closed {
		c.timer.Reset(c.nextLook(in.opts, now))
	}
}

// connOf returns what serve made of an engine's connection.
func connOf(hc *h2.Conn) *conn {
	c, _ := hc.Data.(*conn)
	return c
}

// handler is an Instance as its connections see it.
type handler Instance

// NewStream implements h2.Handler; an instance cannot open streams to us.
func (h *handler) NewStream(*h2.Conn) *h2.Stream { return nil }

// OnConnSlots implements h2.Handler.
func (h *handler) OnConnSlots(b *h2.Batch, hc *h2.Conn) {
	in, c := (*Instance)(h), connOf(hc)
	in.mu.Lock()
	state := c.state
	in.mu.Unlock()
	switch state {
	case connConnecting:
		in.connected(b, c)
	case connInUse:
		in.wake(b, c)
		in.dialMore()
	}
}

// OnConnDraining implements h2.Handler.
func (h *handler) OnConnDraining(b *h2.Batch, hc *h2.Conn) {
	in, c := (*Instance)(h), connOf(hc)
	in.mu.Lock()
	in.dropped(c)
	in.mu.Unlock()
	in.unwatch(b, c)
	in.dialMore()
}

// OnConnClosed implements h2.Handler.
func (h *handler) OnConnClosed(b *h2.Batch, hc *h2.Conn, err error) {
	in, c := (*Instance)(h), connOf(hc)
	in.mu.Lock()
	if c.state != connInUse {
		c.state = connGone
		if errors.Is(err, h2.ErrShutdown) && in.tryAtOnce() {
			in.mu.Unlock()
			return
		}
		in.mu.Unlock()
		in.dialFailed(b, fmt.Errorf("not ready for RPCs: %w", err))
		return
	}
	c.timer.Stop()
	in.dropped(c)
	c.state = connGone
	in.draining--
	in.counts.Connections.Add(-1)
	var tickets []ticket
	switch bad := c.wasBad(time.Now(), err); {
	case in.closed:
	case !bad:
		in.workedWell()
	default:
		err = fmt.Errorf("the connection to %s ended: %w", in.address, err)
		tickets = in.notAgain(err)
	}
	in.mu.Unlock()
	tell(b, tickets, err)
	in.dialMore()
}

// shortLived is the age up to which a connection that ends without a stream was
// good for nothing: who closes idle ones waits longer.
const shortLived = time.Second

// wasBad says that a connection ended in a way that is as good as none: it broke the
// protocol or fell silent, it answered none of what was sent over it, or it was
// closed at once. To connect again and again then would be all that comes of RPC
// after RPC. in.mu is held.
func (c *conn) wasBad(now time.Time, err error) bool {
	if c.ours {
		return false
	}
	if ce, ok := errors.AsType[*h2.ConnError](err); ok && !ce.Remote {
		return true
	}
	st := c.Stats()
	return !st.Answered && (st.Opened || now.Sub(c.born) < shortLived)
}
