package load

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Control is what the machine itself makes anything wait for: bytes that go from this
// process through the kernel and back, one after the other, while something is measured.
type Control struct {
	listener net.Listener
	conn     net.Conn
	stop     func()
	over     chan struct{} // closed by stop
	done     chan struct{} // closed when both ends are over
	worst    atomic.Int64  // nanoseconds
}

// each is how far apart the round trips are.
const each = 10 * time.Millisecond

// StartControl begins the round trips. The test's end stops them at the latest.
func StartControl(t testing.TB) *Control {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		_ = listener.Close()
		t.Fatal(err)
	}
	c := &Control{listener: listener, conn: conn, over: make(chan struct{}), done: make(chan struct{})}
	c.stop = sync.OnceFunc(func() {
		close(c.over)
		<-c.done
	})
	go c.run()
	t.Cleanup(c.stop)

	return c
}

func (c *Control) run() {
	defer close(c.done)

	echo := make(chan struct{})
	go func() {
		defer close(echo)
		back, err := c.listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = back.Close() }()
		_, _ = io.Copy(back, back)
	}()
	defer func() { <-echo }()
	defer func() { _ = c.listener.Close() }()
	defer func() { _ = c.conn.Close() }()

	tick := time.NewTicker(each)
	defer tick.Stop()
	one := make([]byte, 1)
	last := time.Now()
	for {
		select {
		case <-c.over:
			return
		case <-tick.C:
		}
		if _, err := c.conn.Write(one); err != nil {
			return
		}
		if _, err := io.ReadFull(c.conn, one); err != nil {
			return
		}
		// From the end of the one before: where this process does not run, the tick is
		// late as well.
		now := time.Now()
		c.worst.Store(max(c.worst.Load(), int64(now.Sub(last)-each)))
		last = now
	}
}

// Stop ends it, and returns the longest that a round trip took so far.
func (c *Control) Stop() time.Duration {
	c.stop()

	return time.Duration(c.worst.Load())
}
