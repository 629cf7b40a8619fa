package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// ErrTooManyWaiting says that as many RPCs wait for a connection as may.
var ErrTooManyWaiting = errors.New("too many RPCs wait for a connection to the instance")

// ErrGone says that the instance was taken out of the registry.
var ErrGone = errors.New("the instance is no longer in the registry")

// Instance is one instance of a service, and the connections to it.
type Instance struct {
	network, address string
	opts             *Options
	counts           *telemetry.Service
	endpoint         atomic.Pointer[registry.Endpoint]

	inFlight atomic.Int64
	avoided  atomic.Bool // in back-off
	conns    atomic.Pointer[[]*conn]

	mu       sync.Mutex
	waiting  waitList
	dialing  bool
	closed   bool
	failures int
	retryAt  time.Time
	lastErr  error
	retry    *time.Timer
	cancel   context.CancelFunc // of the dial under way
}

// conn is one connection to an instance.
type conn struct {
	*h2.Conn
	timer *time.Timer
	born  time.Time
	old   time.Duration // the age at which it ends; 0: none
}

func newInstance(e registry.Endpoint, opts *Options, counts *telemetry.Service) (*Instance, error) {
	network, address, err := registry.ParseAddress(e.Address)
	if err != nil {
		return nil, err
	}
	in := &Instance{network: network, address: address, opts: opts, counts: counts}
	in.endpoint.Store(&e)
	in.conns.Store(new([]*conn))
	return in, nil
}

// Usable implements balance.Instance.
func (in *Instance) Usable() bool { return !in.avoided.Load() }

// InFlight implements balance.Instance.
func (in *Instance) InFlight() int64 { return in.inFlight.Load() }

// Begin counts an RPC as under way on the instance; End ends that.
func (in *Instance) Begin() { in.inFlight.Add(1) }

// End ends what Begin began.
func (in *Instance) End() { in.inFlight.Add(-1) }

// Endpoint returns what the registry says of the instance.
func (in *Instance) Endpoint() *registry.Endpoint { return in.endpoint.Load() }

// String names the instance in messages: its address.
func (in *Instance) String() string { return in.address }

// LastError returns why the instance is not usable, nil if it is.
func (in *Instance) LastError() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.avoided.Load() {
		return nil
	}
	return in.lastErr
}

// Open opens a stream to the instance. Where none can be opened at once, w is
// queued and queued is true: its caller is told when to try again, or that it
// is in vain. An error means that it is in vain already.
func (in *Instance) Open(b *h2.Batch, s *h2.Stream, fields []hpack.Field, end bool, w *Wait) (gen uint32, queued bool, err error) {
	if gen, ok := in.openNow(b, s, fields, end); ok {
		return gen, false, nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	// Under the lock again: a connection may have come in between.
	if gen, ok := in.openNow(b, s, fields, end); ok {
		return gen, false, nil
	}
	switch {
	case in.closed:
		return 0, false, ErrGone
	case in.avoided.Load() && !in.dialing:
		return 0, false, in.lastErr
	case in.waiting.len >= in.opts.MaxWaiting:
		return 0, false, ErrTooManyWaiting
	}
	in.waiting.push(w)
	if in.wantsConn() {
		in.dial()
	}
	return 0, true, nil
}

func (in *Instance) openNow(b *h2.Batch, s *h2.Stream, fields []hpack.Field, end bool) (gen uint32, ok bool) {
	for _, c := range *in.conns.Load() {
		if gen, err := c.Open(b, s, fields, end); err == nil {
			return gen, true
		}
	}
	return 0, false
}

// wantsConn says whether one more connection would help those who wait. in.mu is
// held.
func (in *Instance) wantsConn() bool {
	if in.dialing || in.closed {
		return false
	}
	conns := *in.conns.Load()
	for _, c := range conns {
		// A peer that has not told its limit may allow more than was assumed;
		// one that allows none has to be waited for, however many there are.
		if st := c.Stats(); !st.Draining && (!st.Settled || st.MaxStreams == 0) {
			return false
		}
	}
	return len(conns) < in.opts.MaxConns
}

// Leave takes w out of the queue, if it is in it.
func (in *Instance) Leave(w *Wait) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if w.queued {
		in.waiting.remove(w)
	}
}

// dial opens a connection in the background. in.mu is held.
func (in *Instance) dial() {
	in.dialing = true
	ctx, cancel := context.WithTimeout(context.Background(), in.opts.ConnectTimeout)
	in.cancel = cancel
	go func() {
		defer cancel()
		nc, err := in.opts.Dial(ctx, in.network, in.address)
		var b h2.Batch
		if err != nil {
			in.dialFailed(&b, err)
			b.Done()
			return
		}
		c := h2.New(h2.NewTransport(nc), h2.Client, in.opts.HTTP2, (*handler)(in))
		in.connected(&b, c)
		b.Done()
		c.Serve()
	}()
}

// dialFailed leaves the instance alone for a while and sends those who wait
// elsewhere.
func (in *Instance) dialFailed(b *h2.Batch, err error) {
	in.counts.ConnectFailures.Add(1)
	in.mu.Lock()
	in.dialing, in.cancel = false, nil
	in.lastErr = fmt.Errorf("connecting to %s: %w", in.address, err)
	var waiting []ticket
	if len(*in.conns.Load()) == 0 {
		waiting = in.waiting.take(in.waiting.len)
		in.avoid()
	}
	err = in.lastErr
	in.mu.Unlock()
	tell(b, waiting, err)
}

// avoid has the instance skipped until a connection attempt after the back-off
// succeeds. in.mu is held.
func (in *Instance) avoid() {
	if in.closed {
		return
	}
	in.avoided.Store(true)
	wait := float64(in.opts.BackoffBase)
	for range in.failures {
		if wait *= 1.6; wait >= float64(in.opts.BackoffMax) {
			wait = float64(in.opts.BackoffMax)
			break
		}
	}
	wait *= 0.8 + 0.4*in.opts.Jitter()
	in.failures++
	in.retryAt = time.Now().Add(time.Duration(wait))
	in.retry = time.AfterFunc(time.Duration(wait), func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		if !in.closed && !in.dialing {
			in.dial()
		}
	})
}

// connected takes a new connection into use and lets those who wait open their
// streams.
func (in *Instance) connected(b *h2.Batch, h *h2.Conn) {
	in.counts.Connections.Add(1)
	c := &conn{Conn: h, born: time.Now()}
	h.Data = c
	if in.opts.MaxAge > 0 {
		c.old = time.Duration(float64(in.opts.MaxAge) * (0.9 + 0.2*in.opts.Jitter()))
	}
	in.mu.Lock()
	in.dialing, in.cancel = false, nil
	if in.closed {
		in.mu.Unlock()
		h.Shutdown(b)
		return
	}
	in.failures, in.lastErr = 0, nil
	in.avoided.Store(false)
	conns := append([]*conn{c}, *in.conns.Load()...) // the new one has most room
	in.conns.Store(&conns)
	c.timer = time.AfterFunc(c.nextLook(in.opts, time.Now()), func() { in.look(c) })
	in.mu.Unlock()
	in.wake(b, c)
}

// wake lets as many of those who wait try again as c has room for.
func (in *Instance) wake(b *h2.Batch, c *conn) {
	for {
		st := c.Stats()
		if st.Draining || uint32(st.Streams) >= st.MaxStreams {
			return
		}
		in.mu.Lock()
		waiting := in.waiting.take(int(min(st.MaxStreams-uint32(st.Streams), 1024)))
		in.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		tell(b, waiting, nil)
	}
}

// drop takes a connection out of use.
func (in *Instance) drop(b *h2.Batch, c *conn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	old := *in.conns.Load()
	conns := make([]*conn, 0, len(old))
	for _, o := range old {
		if o != c {
			conns = append(conns, o)
		}
	}
	in.conns.Store(&conns)
	if in.waiting.len > 0 && in.wantsConn() {
		in.dial()
	}
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
		in.drop(&b, c)
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

// close lets go of the instance: its streams go on, those who wait are sent
// elsewhere.
func (in *Instance) close(b *h2.Batch) {
	in.mu.Lock()
	in.closed = true
	if in.retry != nil {
		in.retry.Stop()
	}
	if in.cancel != nil {
		in.cancel()
	}
	waiting := in.waiting.take(in.waiting.len)
	conns := *in.conns.Load()
	in.conns.Store(new([]*conn))
	for _, c := range conns {
		c.timer.Stop()
	}
	in.mu.Unlock()
	for _, c := range conns {
		c.Shutdown(b)
	}
	tell(b, waiting, ErrGone)
}

// handler is an Instance as its connections see it.
type handler Instance

// NewStream implements h2.Handler; an instance cannot open streams to us.
func (h *handler) NewStream(*h2.Conn) *h2.Stream { return nil }

// OnConnSlots implements h2.Handler.
func (h *handler) OnConnSlots(b *h2.Batch, hc *h2.Conn) {
	in, c := (*Instance)(h), hc.Data.(*conn)
	in.wake(b, c)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.waiting.len > 0 && in.wantsConn() {
		in.dial()
	}
}

// OnConnDraining implements h2.Handler.
func (h *handler) OnConnDraining(b *h2.Batch, hc *h2.Conn) {
	(*Instance)(h).drop(b, hc.Data.(*conn))
}

// OnConnClosed implements h2.Handler.
func (h *handler) OnConnClosed(b *h2.Batch, hc *h2.Conn, _ error) {
	in, c := (*Instance)(h), hc.Data.(*conn)
	in.counts.Connections.Add(-1)
	in.drop(b, c)
	in.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	in.mu.Unlock()
}

// InstanceStatus describes an instance to people.
type InstanceStatus struct {
	Endpoint    registry.Endpoint
	Usable      bool
	LastError   string
	RetryAt     time.Time // zero where it is usable
	InFlight    int64
	Waiting     int
	Connections int
}

func (in *Instance) status() InstanceStatus {
	in.mu.Lock()
	defer in.mu.Unlock()
	st := InstanceStatus{
		Endpoint: *in.endpoint.Load(), Usable: in.Usable(), InFlight: in.InFlight(),
		Waiting: in.waiting.len, Connections: len(*in.conns.Load()),
	}
	if !st.Usable {
		st.RetryAt = in.retryAt
		st.LastError = in.lastErr.Error()
	}
	return st
}
