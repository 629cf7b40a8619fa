package upstream

import (
	"context"
	"errors"
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

// ErrConnectsSlowly says that an RPC that waits for a connection may go elsewhere;
// where there is no other instance, it may wait again.
var ErrConnectsSlowly = errors.New("the instance takes long to connect to")

// Instance is one instance of a service, and the connections to it.
type Instance struct {
	network, address string
	opts             *Options
	counts           *telemetry.Service
	security         Security // nil: connections need not be anything
	endpoint         atomic.Pointer[registry.Endpoint]

	inFlight atomic.Int64
	reasons  atomic.Uint32 // a Reason: what it is blocked for
	judge    atomic.Pointer[judge]
	measures atomic.Pointer[measures]
	connect  atomic.Int64          // the policy's ConnectTimeout
	loads    atomic.Pointer[loads] // what its RPCs count in; nil: nothing
	warming  warming
	avoided  atomic.Bool // in back-off
	failing  atomic.Bool // backoff has failures
	slow     atomic.Bool // has been connecting for Options.SlowConnect
	refusal  refusal
	conns    atomic.Pointer[[]*conn]

	// queued is waiting.len, for those who do not hold mu.
	queued atomic.Int32

	mu       sync.Mutex
	waiting  waitList
	closed   bool
	draining int         // connections that are no longer used, and not yet closed
	stuck    *time.Timer // set while somebody waits
	dialing  bool        // a connection is being made
	// turnedAway is how many connections in a row were turned away in peace.
	turnedAway int
	cancel     context.CancelFunc // of that
	slowly     *time.Timer        // of that; nil where there was a connection already
	backoff
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

// InFlight implements balance.Instance.
func (in *Instance) InFlight() int64 { return in.inFlight.Load() }

// Endpoint returns what the registry says of the instance.
func (in *Instance) Endpoint() *registry.Endpoint { return in.endpoint.Load() }

// String names the instance in messages: its address.
func (in *Instance) String() string { return in.address }

// LastError returns why the instance is not usable, nil if it is.
func (in *Instance) LastError() error {
	in.mu.Lock()
	err := in.trouble().lastErr
	in.mu.Unlock()
	if err == nil {
		err = in.verdict(time.Now())
	}
	return err
}

// trouble is the back-off that keeps the instance from being used, an empty one
// if none does. in.mu is held.
func (in *Instance) trouble() *backoff {
	switch {
	case in.avoided.Load():
		return &in.backoff
	case in.refusal.active.Load():
		return &in.refusal.app
	}
	return &backoff{}
}

// Open opens a stream to the instance. Where none can be opened at once, w is
// queued and queued is true: its caller is told when to try again, or that it
// is in vain. An error means that it is in vain already.
func (in *Instance) Open(b *h2.Batch, s *h2.Stream, fields []hpack.Field, end bool, w *Wait) (gen uint32, queued bool, err error) {
	first := w.woken // or those who come later would overtake it
	w.woken = false
	if first || in.queued.Load() == 0 {
		if gen, ok := in.openNow(b, s, fields, end); ok {
			return gen, false, nil
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if first || in.waiting.len == 0 {
		// Under the lock again: a connection may have come in between. What is
		// refused here has the connection tell when it has room.
		if gen, ok := in.openNow(b, s, fields, end); ok {
			return gen, false, nil
		}
	}
	switch {
	case in.closed:
		return 0, false, ErrGone
	case in.avoided.Load() && !in.dialing:
		return 0, false, in.lastErr
	case in.waiting.len >= in.opts.MaxWaiting:
		return 0, false, ErrTooManyWaiting
	}
	in.waiting.push(w, first)
	in.queued.Store(int32(in.waiting.len))
	if in.wantsConn() {
		in.dial()
	}
	in.watchStuck()
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

// Leave takes w out of the queue, if it is in it.
func (in *Instance) Leave(w *Wait) {
	in.mu.Lock()
	defer in.mu.Unlock()
	w.woken = false
	if w.queued {
		in.waiting.remove(w)
		in.queued.Store(int32(in.waiting.len))
	}
}

// takeWaiting takes up to n out of the queue. in.mu is held.
func (in *Instance) takeWaiting(n int) []ticket {
	tickets := in.waiting.take(n)
	in.queued.Store(int32(in.waiting.len))
	return tickets
}

// wake lets as many of those who wait try again as c has room for. As long as
// somebody waits, each connection either has no room, and tells when it has, or
// somebody is here.
func (in *Instance) wake(b *h2.Batch, c *conn) {
	for {
		in.mu.Lock()
		if in.waiting.len == 0 {
			in.mu.Unlock()
			return
		}
		tickets := in.takeWaiting(min(c.Room(), 1024))
		in.mu.Unlock()
		if len(tickets) == 0 {
			return
		}
		tell(b, tickets, nil)
	}
}

// close lets go of the instance: its streams go on, those who wait are sent
// elsewhere.
func (in *Instance) close(b *h2.Batch) {
	in.retire()
	in.mu.Lock()
	in.closed = true
	in.backoff.stop()
	in.refusal.app.stop()
	if in.cancel != nil {
		in.cancel()
	}
	if in.slowly != nil {
		in.slowly.Stop()
	}
	if in.stuck != nil {
		in.stuck.Stop()
	}
	tickets := in.takeWaiting(in.waiting.len)
	conns := *in.conns.Load()
	in.conns.Store(new([]*conn))
	for _, c := range conns {
		c.timer.Stop()
	}
	in.mu.Unlock()
	for _, c := range conns {
		c.Shutdown(b)
	}
	tell(b, tickets, ErrGone)
}

// InstanceStatus describes an instance to people.
type InstanceStatus struct {
	Endpoint    registry.Endpoint
	Usable      bool
	Reachable   bool // Usable, were it not for Verdicts.Blocked
	LastError   string
	RetryAt     time.Time // zero where it is usable
	InFlight    int64
	Waiting     int
	Connections int
	Verdicts
}

func (in *Instance) status() InstanceStatus {
	verdicts := in.verdicts(time.Now())
	in.mu.Lock()
	defer in.mu.Unlock()
	st := InstanceStatus{
		Endpoint: *in.endpoint.Load(), Usable: in.Usable(), Reachable: in.Reachable(), InFlight: in.InFlight(),
		Waiting: in.waiting.len, Connections: len(*in.conns.Load()),
		Verdicts: verdicts,
	}
	if t := in.trouble(); t.lastErr != nil {
		st.RetryAt, st.LastError = t.retryAt, t.lastErr.Error()
	}
	return st
}
