package upstream

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// guard is a Security that the test plays.
type guard struct {
	key     string
	refusal error

	mu       sync.Mutex
	fails    error
	dials    int
	attended []*attended
}

// attended is a connection that a guard looks after.
type attended struct {
	end     func(error)
	drain   func()
	stopped bool
}

func (g *guard) Key() string    { return g.key }
func (g *guard) Refusal() error { return g.refusal }

func (g *guard) Dial(ctx context.Context, open func(context.Context) (net.Conn, error)) (net.Conn, error) {
	g.mu.Lock()
	g.dials++
	fails := g.fails
	g.mu.Unlock()
	if fails != nil {
		return nil, fails
	}
	return open(ctx)
}

func (g *guard) Attend(_ net.Conn, end func(error), drain func()) (stop func()) {
	a := &attended{end: end, drain: drain}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attended = append(g.attended, a)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		a.stopped = true
	}
}

// at returns the i-th connection that there was.
func (g *guard) at(i int) *attended {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.attended[i]
}

// open counts the connections that are looked after.
func (g *guard) open() (n int) {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.attended {
		if !a.stopped {
			n++
		}
	}
	return n
}

// dialled counts how often a connection was wanted.
func (g *guard) dialled() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dials
}

func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fails = err
}

func guarded(t *testing.T, g *guard, o Options) *rig {
	t.Helper()
	o.Secure = func(service string, e *registry.Endpoint) Security {
		if service != "greeter" || e.Address != "a:1" {
			t.Errorf("asked about %s of service %q", e.Address, service)
		}
		return g
	}
	return newRig(t, o, "a:1")
}

// A connection that is to be replaced takes new streams until another one is there, and
// then finishes those that it has.
func TestAConnectionIsReplaced(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		time.Sleep(time.Minute)
		a.Delay = time.Second
		g.at(0).drain()
		time.Sleep(time.Second / 2)
		two := r.call(r.instance("a:1"))
		two.want("open")
		if n := len(a.Conns()); n != 1 {
			t.Fatalf("%d connections while the other is being made", n)
		}
		time.Sleep(time.Second)
		three := r.call(r.instance("a:1"))
		three.want("open")
		conns := a.Conns()
		if len(conns) != 2 || g.open() != 2 {
			t.Fatalf("%d connections, %d looked after", len(conns), g.open())
		}
		conns[1].Want("HEADERS 1 :path=/a.B/C end")
		conns[0].Want("HEADERS 1 :path=/a.B/C end", "HEADERS 3 :path=/a.B/C end", "GOAWAY 0 NO_ERROR")
		conns[0].TrailersOnly(1, "0")
		one.want("[headers 200 closed]")
		two.want("open")
		conns[0].TrailersOnly(3, "0")
		two.want("[headers 200 closed]")
		time.Sleep(time.Minute)
		if !conns[0].Closed() || conns[1].Closed() || g.open() != 1 {
			t.Errorf("the old connection is closed: %v, the new one: %v, %d looked after", conns[0].Closed(), conns[1].Closed(), g.open())
		}
		three.cancel()
	})
}

// As long as there is no other, the old one has to do, and another is tried for again and
// again, but no more often than back-off lets it.
func TestAConnectionCannotBeReplaced(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		time.Sleep(time.Minute)
		g.fail(errors.New("no"))
		g.at(0).drain()
		time.Sleep(time.Minute)
		if n := g.dialled() - 1; n < 10 || n > 40 {
			t.Errorf("another connection was tried for %d times in a minute", n)
		}
		two := r.call(r.instance("a:1"))
		two.want("open")
		if n := len(a.Conns()); n != 1 || !r.instance("a:1").Usable() {
			t.Errorf("%d connections; usable: %v", n, r.instance("a:1").Usable())
		}
		g.fail(nil)
		time.Sleep(5 * time.Second)
		if n := len(a.Conns()); n != 2 {
			t.Fatalf("%d connections once another can be made", n)
		}
		one.cancel()
		two.cancel()
		time.Sleep(time.Minute)
		if n := g.open(); n != 1 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// A connection without anything to do just ends.
func TestAnIdleConnectionIsNotReplaced(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		one.cancel()
		time.Sleep(time.Minute)
		g.at(0).drain()
		time.Sleep(time.Minute)
		if n := g.open(); n != 0 || len(a.Conns()) != 1 {
			t.Errorf("%d connections are left of %d", n, len(a.Conns()))
		}
	})
}

// Whoever wants each connection to be replaced at once has one made each second.
func TestReplacingIsBounded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		busy := []*call{one}
		for range 100 {
			g.at(len(a.Conns()) - 1).drain()
			time.Sleep(100 * time.Millisecond)
			busy = append(busy, r.call(r.instance("a:1")))
		}
		if n := len(a.Conns()); n < 5 || n > 11 {
			t.Errorf("%d connections in ten seconds", n)
		}
		for _, c := range busy {
			c.cancel()
		}
	})
}

// A connection that may not go on ends with all that it has, and another takes its place
// for those who come next.
func TestAConnectionIsCutOff(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		g.at(0).end(errors.New("it is somebody else"))
		if s := one.state(); !strings.Contains(s, "reset") || !strings.Contains(s, "closed") {
			t.Errorf("what was under way is %s", s)
		}
		two := r.call(r.instance("a:1"))
		two.want("open")
		conns := a.Conns()
		if len(conns) != 2 || r.instance("a:1").LastError() != nil {
			t.Errorf("%d connections; the instance is in trouble: %v", len(conns), r.instance("a:1").LastError())
		}
		lines := strings.Join(conns[0].Lines(), "\n")
		if !strings.Contains(lines, "INADEQUATE_SECURITY it is somebody else") {
			t.Errorf("the instance is told %s", lines)
		}
		two.cancel()
	})
}

// An instance that may not be connected to is not, and says why.
func TestAnInstanceIsRefused(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{refusal: errors.New("it speaks plaintext")}
		r := guarded(t, g, Options{})
		r.net.Listen("a:1")
		in := r.instance("a:1")
		if _, ok := r.cluster.Pick(nil); ok || in.Usable() {
			t.Error("it is used")
		}
		c := r.call(in)
		c.want("it speaks plaintext")
		time.Sleep(time.Hour)
		if n := g.dialled(); n != 0 || r.net.Dials("a:1") != 0 {
			t.Errorf("it was dialled %d times", n)
		}
		if err := r.cluster.LastError(); err == nil || err.Error() != "it speaks plaintext" {
			t.Errorf("the reason is %v", err)
		}
	})
}

// An instance that speaks something else than before has other connections, and one of
// which something else changes keeps them.
func TestSecurityThatChanges(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := &guard{key: "plaintext"}
		r := guarded(t, g, Options{})
		a := r.net.Listen("a:1")
		one := r.call(r.instance("a:1"))
		one.want("open")
		before := r.instance("a:1")
		r.update("a:1")
		if r.instance("a:1") != before {
			t.Error("the instance is another one, though nothing has changed")
		}
		g.key = "tls"
		r.update("a:1")
		after := r.instance("a:1")
		if after == before {
			t.Fatal("the instance is the same, though it speaks something else")
		}
		two := r.call(after)
		two.want("open")
		if n := len(a.Conns()); n != 2 {
			t.Errorf("%d connections", n)
		}
		a.Conns()[0].TrailersOnly(1, "0")
		one.want("[headers 200 closed]")
		two.cancel()
	})
}
