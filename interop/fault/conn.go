package fault

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one connection through the proxy.
type Conn struct {
	// Index is the connection's number, from 1 on.
	Index int

	proxy          *Proxy
	client, server net.Conn
	lanes          [2]*lane
	over           chan struct{} // closed when nothing goes on any more
	ending         sync.Once
	silent         atomic.Bool // no FIN is sent any more
	finish         func()      // closes over
}

func newConn(p *Proxy, client, server net.Conn, index int64) *Conn {
	c := &Conn{Index: int(index), proxy: p, client: client, server: server, over: make(chan struct{})}
	c.finish = sync.OnceFunc(func() { close(c.over) })
	c.lanes[ToServer] = newLane(c, ToServer, client, server)
	c.lanes[ToClient] = newLane(c, ToClient, server, client)

	return c
}

// run carries both directions until both are over.
func (c *Conn) run() {
	var lanes sync.WaitGroup
	for _, l := range c.lanes {
		lanes.Go(l.read)
		lanes.Go(l.write)
	}
	lanes.Wait()
	c.end(Close)
	_ = c.client.Close()
	_ = c.server.Close()
}

// End ends the connection now.
func (c *Conn) End(how Ending) {
	if how != HalfClose {
		c.end(how)

		return
	}
	for _, l := range c.lanes {
		l.halfClose()
	}
}

// HalfClose sends a FIN in one direction now.
func (c *Conn) HalfClose(d Direction) { c.lanes[d].halfClose() }

// Delivered is how many bytes have gone through in a direction.
func (c *Conn) Delivered(d Direction) int64 { return c.lanes[d].delivered.Load() }

// AwaitDelivered waits until so many bytes have gone through in a direction. An
// error says that ctx or the connection, or its direction, ended before.
func (c *Conn) AwaitDelivered(ctx context.Context, d Direction, bytes int64) error {
	for {
		c.proxy.mu.Lock()
		c.proxy.watched = true
		changed := c.proxy.changed
		c.proxy.mu.Unlock()

		delivered := c.Delivered(d)
		if delivered >= bytes {
			return nil
		}

		select {
		case <-changed:
		case <-c.lanes[d].done:
			return fmt.Errorf("it ended after %d bytes %s, want %d", delivered, d, bytes)
		case <-ctx.Done():
			return fmt.Errorf("%d bytes went %s, want %d: %w", delivered, d, bytes, ctx.Err())
		}
	}
}

// Hold delivers nothing in a direction until release is called. Held again, each
// has to release.
func (c *Conn) Hold(d Direction) (release func()) {
	l := c.lanes[d]
	hold := func(n int) {
		c.proxy.mu.Lock()
		defer c.proxy.mu.Unlock()
		l.held += n
		c.proxy.tell()
	}
	hold(1)

	return sync.OnceFunc(func() { hold(-1) })
}

// closing is how long a connection that is closed is still read.
const closing = time.Second

// end ends the connection. What vanished or is being closed can still be reset.
func (c *Conn) end(how Ending) {
	c.ending.Do(func() {
		for _, l := range c.lanes {
			l.discards.Store(true)
		}
		switch how {
		case Vanish:
			c.silent.Store(true)
			_ = c.client.SetWriteDeadline(time.Now())
			_ = c.server.SetWriteDeadline(time.Now())
			c.proxy.mu.Lock()
			c.proxy.tell()
			c.proxy.mu.Unlock()
		case Close, HalfClose:
			deadline := time.Now().Add(closing)
			for _, side := range []net.Conn{c.client, c.server} {
				_ = closeWrite(side)
				_ = side.SetDeadline(deadline)
			}
			c.finish()
		case Abort:
			c.silent.Store(true) // or one might come before the RST below
		}
	})
	if how == Abort {
		reset(c.client)
		reset(c.server)
		c.finish()
	}
}

func closeWrite(c net.Conn) error {
	if half, is := c.(interface{ CloseWrite() error }); is {
		return half.CloseWrite()
	}

	return c.Close()
}
