package upstream

import (
	"context"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/registry"
)

// Security is what the connections to one instance have to be, and what is known of
// earlier ones.
type Security interface {
	// Key tells one from another: while it stays the same, so do the connections.
	Key() string
	// Refusal says why there may be no connection at all; nil: there may.
	Refusal() error
	// Dial opens a connection and makes it what it has to be, or fails. It is never
	// less than that.
	Dial(ctx context.Context, open func(context.Context) (net.Conn, error)) (net.Conn, error)
	// Attend looks after a connection that Dial returned until stop is called. It calls
	// end where the connection may not go on, and drain where another shall take its
	// place.
	Attend(nc net.Conn, end func(reason error), drain func()) (stop func())
}

// secure says what connections to an endpoint have to be; nil: nothing.
func (c *Cluster) secure(e *registry.Endpoint) Security {
	if c.opts.Secure == nil {
		return nil
	}
	return c.opts.Secure(c.name, e)
}

// keyOf tells instances apart. One that moved is a new one, as its connections lead
// elsewhere, and so is one that speaks something else, or has to prove something else.
func keyOf(e *registry.Endpoint, s Security) string {
	key := e.ID + "\x00" + e.Address
	if s != nil {
		key += "\x00" + s.Key()
	}
	return key
}

// secureWith has the instance's connections be what they have to be. Where none may be,
// it is left alone for good. It is called before the instance is used.
func (in *Instance) secureWith(s Security) {
	in.security = s
	if s == nil {
		return
	}
	if err := s.Refusal(); err != nil {
		in.backoff.lastErr = err
		in.avoided.Store(true)
	}
}

// open opens a connection to the instance.
func (in *Instance) open(ctx context.Context) (net.Conn, error) {
	open := func(ctx context.Context) (net.Conn, error) { return in.opts.Dial(ctx, in.network, in.address) }
	if in.security == nil {
		return open(ctx)
	}
	return in.security.Dial(ctx, open)
}

// attend looks after a connection until stop is called.
func (in *Instance) attend(c *conn) (stop func()) {
	if in.security == nil {
		return func() {}
	}
	return in.security.Attend(c.nc, func(reason error) { in.cutOff(c, reason) }, func() { in.renew(c) })
}

// cutOff ends a connection that may not go on, with all that is under way over it.
func (in *Instance) cutOff(c *conn, reason error) {
	in.mu.Lock()
	c.ours = true
	in.dropped(c)
	in.mu.Unlock()
	var b h2.Batch
	c.Abort(&b, h2.InadequateSecurity, reason.Error())
	b.Done()
	in.dialMore()
}

// renewAfter is how long a connection is left as it is at least. Whoever wants each new
// one to be replaced at once gets no more than that.
const renewAfter = time.Second

// renew has another connection take the place of one, which ends once that is there.
// One that has nothing to do just ends.
func (in *Instance) renew(c *conn) {
	in.mu.Lock()
	if in.closed || c.gone || c.state == connGone || c.retiring {
		in.mu.Unlock()
		return
	}
	if c.state == connConnecting || time.Since(c.born) < renewAfter {
		in.mu.Unlock()
		time.AfterFunc(renewAfter, func() { in.renew(c) })
		return
	}
	if !c.Stats().IdleSince.IsZero() {
		c.ours = true
		in.dropped(c)
		in.mu.Unlock()
		in.endGently(c)
		in.dialMore()
		return
	}
	c.retiring = true
	if in.wantsRenewal() {
		in.dial()
	}
	in.mu.Unlock()
}

// wantsRenewal says whether a connection is to be made in the place of one that is to
// end. in.mu is held.
func (in *Instance) wantsRenewal() bool {
	if in.dialing || in.closed || in.draining >= in.opts.MaxDraining || in.backoff.holds() {
		return false
	}
	for _, c := range *in.conns.Load() {
		if c.retiring {
			return true
		}
	}
	return false
}

// takeRetiring takes the connections out of use whose place another one has taken, and
// returns them. in.mu is held.
func (in *Instance) takeRetiring() (ended []*conn) {
	for _, c := range *in.conns.Load() {
		if c.retiring {
			c.ours = true
			in.dropped(c)
			ended = append(ended, c)
		}
	}
	return ended
}

// endGently lets what is under way on a connection finish, and nothing begin. No lock is
// held.
func (in *Instance) endGently(conns ...*conn) {
	var b h2.Batch
	for _, c := range conns {
		in.unwatch(&b, c)
		c.Shutdown(&b)
	}
	b.Done()
}

// Connections calls f with each connection to an instance that is in use: what it is
// made of, and since when it is.
func (c *Cluster) Connections(f func(in *Instance, nc net.Conn, since time.Time)) {
	for _, in := range c.table.Load().instances {
		in.mu.Lock()
		conns := *in.conns.Load()
		in.mu.Unlock()
		for _, conn := range conns {
			f(in, conn.nc, conn.born)
		}
	}
}
