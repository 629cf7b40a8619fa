package h2

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// rig is a connection under test with a peer that the test plays.
type rig struct {
	*peer
	c *Conn
	w *watcher
	// engine is the engine's end of the network.
	engine *simEnd
	// served is closed when Serve has returned.
	served chan struct{}
	// opened are the streams that the test opened.
	opened []*recorder
}

// simulated runs a test on virtual time, where nothing is running once
// synctest.Wait returns.
func simulated(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// bothRoles runs a test for a server and for a client.
func bothRoles(t *testing.T, test func(t *testing.T, role Role)) {
	t.Run("server", func(t *testing.T) { test(t, Server) })
	t.Run("client", func(t *testing.T) { test(t, Client) })
}

// newRig starts a connection in that role, whose peer has said nothing yet.
func newRig(t *testing.T, role Role, cfg Config) *rig {
	t.Helper()
	full := cfg.WithDefaults()
	engine, other := newSim()
	r := &rig{
		peer: newPeer(t, other, role == Client), w: &watcher{t: t},
		engine: engine, served: make(chan struct{}),
	}
	r.c = New(engine, role, &full, r.w)
	go func() {
		defer close(r.served)
		r.c.Serve()
	}()
	t.Cleanup(r.finish)
	return r
}

// newServer starts a server whose client has shaken hands with these settings.
func newServer(t *testing.T, cfg Config, settings ...http2.Setting) *rig {
	t.Helper()
	r := newRig(t, Server, cfg)
	r.hello(settings...)
	return r
}

// hello sends what a client begins with, and takes what the server does.
func (r *rig) hello(settings ...http2.Setting) {
	r.t.Helper()
	r.raw([]byte(clientPreface))
	r.must(r.WriteSettings(settings...))
	r.wantHello("the server's first frames")
}

func (r *rig) wantHello(what string) {
	r.t.Helper()
	lines := []string{"SETTINGS*", "WINDOW_UPDATE 0*", "SETTINGS ack"}
	if r.c.cfg.ConnWindow == defaultInitialWindow {
		lines = slices.Delete(lines, 1, 2)
	}
	want(r.t, what, r.frames(), lines...)
}

// newClient starts a client whose server has shaken hands with these settings.
func newClient(t *testing.T, cfg Config, settings ...http2.Setting) *rig {
	t.Helper()
	r := newRig(t, Client, cfg)
	r.must(r.WriteSettings(settings...))
	r.wantHello("the client's first frames")
	r.w.log()
	return r
}

// finish ends the connection and checks that nothing of it is left.
func (r *rig) finish() {
	r.t.Helper()
	r.end.Close()
	select {
	case <-r.served:
	case <-time.After(time.Hour):
		r.t.Error("Serve does not end with the connection")
		return
	}
	synctest.Wait()
	checkEmpty(r.t, r.c)
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if !r.w.closed {
		r.t.Error("no OnConnClosed")
	}
	for i, o := range r.w.streams {
		if !o.closed {
			r.t.Errorf("no OnClosed for request %d", i)
		}
	}
	for i, o := range r.opened {
		if !o.closed {
			r.t.Errorf("no OnClosed for stream %d of those opened", i)
		}
	}
}

// checkEmpty checks that an ended connection keeps nothing.
func checkEmpty(t testing.TB, c *Conn) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead || c.active != 0 || c.streams.n != 0 || c.ready.head != nil || c.unopened.head != nil || c.blocked.head != nil {
		t.Errorf("the ended connection has %d streams, %d of them open; ready: %v, blocked: %v, dead: %v",
			c.active, c.streams.n, c.ready.head != nil, c.blocked.head != nil, c.dead)
	}
	if n := c.cfg.Budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget were not released", n)
	}
}

// do runs f with a batch of its own and gets it done.
func do(f func(b *Batch)) {
	var b Batch
	f(&b)
	b.Done()
}

// open opens a stream, or fails the test.
func (r *rig) open(end bool, fieldPairs ...string) *recorder {
	r.t.Helper()
	o := newRecorder(r.t)
	do(func(b *Batch) {
		o.mu.Lock()
		defer o.mu.Unlock()
		gen, err := r.c.Open(b, &o.s, fields(fieldPairs...), end)
		if err != nil {
			r.t.Fatal(err)
		}
		o.gen = gen
	})
	r.opened = append(r.opened, o)
	return o
}

// send has o send a header section.
func (o *recorder) send(end bool, fieldPairs ...string) {
	do(func(b *Batch) { o.s.SendHeaders(b, fields(fieldPairs...), end) })
}

// write has o send n bytes of DATA.
func (o *recorder) write(n int, end bool) (taken int) {
	do(func(b *Batch) { taken = o.s.SendData(b, make([]byte, n), end) })
	return taken
}

func (o *recorder) rst(code ErrCode) { do(func(b *Batch) { o.s.Reset(b, code) }) }

// fillOutput stops the network, fills the connection's output with frames that
// we owe the peer, so that nothing else goes there, and then calls f.
func (r *rig) fillOutput(f func() *recorder) *recorder {
	r.t.Helper()
	r.room(0)
	for i := range maxOutput/17 + 10 {
		r.must(r.WritePing(false, [8]byte{}))
		if i%1000 == 0 { // too many in a row would be a nuisance
			r.calmDown()
		}
	}
	synctest.Wait()
	r.c.mu.Lock()
	full := r.c.outputFull()
	r.c.mu.Unlock()
	if !full {
		r.t.Fatal("the output is not full")
	}
	return f()
}

// calmDown lets the engine handle what was sent, and forgives nuisances.
func (r *rig) calmDown() {
	synctest.Wait()
	r.c.mu.Lock()
	r.c.usefulWork(r.c.cfg.Nuisance)
	r.c.mu.Unlock()
}

// holdReading calls f while the engine does not come to read.
func (r *rig) holdReading(f func()) {
	r.t.Helper()
	synctest.Wait()
	r.engine.in.setHold(true)
	f()
	synctest.Wait()
	r.engine.in.setHold(false)
	synctest.Wait()
}
