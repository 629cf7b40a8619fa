package modeltest

import (
	"net"
	"sync"
)

// listener is a net.Listener for what the network accepts.
type listener struct {
	mu      sync.Mutex
	cond    sync.Cond
	waiting []*end
	closed  bool
}

func newListener() *listener {
	l := &listener{}
	l.cond.L = &l.mu
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	e := l.waiting[0]
	l.waiting = l.waiting[1:]
	return e, nil
}

// take hands a connection to who accepts; one that comes too late is reset.
func (l *listener) take(e *end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		e.turnAway()
		return
	}
	l.waiting = append(l.waiting, e)
	l.cond.Signal()
}

func (e *end) turnAway() {
	e.c.harm("nobody listens any more")
	e.c.reset()
}

// Close resets what was not accepted yet, as a kernel does.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, e := range l.waiting {
		e.turnAway()
	}
	l.waiting = nil
	l.cond.Broadcast()
	return nil
}
func (l *listener) Addr() net.Addr { return address("listener") }
