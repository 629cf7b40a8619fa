package upstream

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// rig is a cluster whose instances the test plays, on virtual time.
type rig struct {
	t       testing.TB
	net     *scriptpeer.Network
	counts  *telemetry.Service
	cluster *Cluster
}

// simulated runs a test on virtual time.
func simulated(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

func newRig(t testing.TB, o Options, addresses ...string) *rig {
	t.Helper()
	r := &rig{t: t, net: scriptpeer.NewNetwork(t)}
	if o.HTTP2 == nil {
		o.HTTP2 = new(h2.Config)
	}
	cfg := o.HTTP2.WithDefaults()
	o.HTTP2 = &cfg
	if o.Dial == nil {
		o.Dial = r.net.Dial
	}
	if o.Jitter == nil {
		o.Jitter = func() float64 { return 0.5 }
	}
	o = o.WithDefaults()
	r.counts = new(telemetry.Counters).Service(telemetry.Outbound, "greeter")
	r.cluster = NewCluster("greeter", balance.RoundRobin, &o, r.counts)
	r.update(addresses...)
	t.Cleanup(r.cluster.Close)
	return r
}

// update hands a set of addresses over as the cluster's endpoints.
func (r *rig) update(addresses ...string) {
	var endpoints []registry.Endpoint
	for _, a := range addresses {
		endpoints = append(endpoints, registry.Endpoint{ID: a, Address: a, Weight: 1})
	}
	r.cluster.Update(endpoints, false)
}

// instance returns the instance at an address.
func (r *rig) instance(address string) *Instance {
	r.t.Helper()
	for _, in := range r.cluster.table.Load().instances {
		if in.address == address {
			return in
		}
	}
	r.t.Fatalf("there is no instance at %s", address)
	return nil
}

// call is a caller that wants one stream, as an RPC does.
type call struct {
	t    testing.TB
	in   *Instance
	wait Wait
	s    h2.Stream

	mu     sync.Mutex
	opened bool
	queued bool
	err    error
	woken  int // how often it was told to try again
	events []string
	closed bool
}

var request = []hpack.Field{
	{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/a.B/C"},
}

// call opens a stream to the instance, or waits for one.
func (r *rig) call(in *Instance) *call {
	c := &call{t: r.t, in: in}
	c.s.Init(c)
	do(func(b *h2.Batch) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open(b)
	})
	return c
}

func (c *call) open(b *h2.Batch) {
	c.wait.Prepare(c, 7)
	_, c.queued, c.err = c.in.Open(b, &c.s, request, true, &c.wait)
	c.opened = c.err == nil && !c.queued
}

func (c *call) OnConn(b *h2.Batch, w *Wait, gen uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != 7 || w != &c.wait {
		c.t.Errorf("a caller is told of life %d and another's wait: %v", gen, w != &c.wait)
	}
	c.woken++
	c.queued = false
	if errors.Is(err, ErrConnectsSlowly) {
		err = nil // there is no other instance: it waits again
	}
	if c.err = err; err == nil {
		c.open(b)
	}
}

func (c *call) note(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
	c.closed = c.closed || event == "closed"
}

func (c *call) OnHeaders(_ *h2.Batch, _ *h2.Stream, _ uint32, h *h2.Head, _ bool) {
	c.note(fmt.Sprintf("headers %d", h.Status))
}
func (c *call) OnData(*h2.Batch, *h2.Stream, uint32, []byte, bool) {}
func (c *call) OnReset(_ *h2.Batch, _ *h2.Stream, _ uint32, r h2.Reset) {
	c.note("reset " + r.Code.String())
}
func (c *call) OnTaken(*h2.Batch, *h2.Stream, uint32, int) {}
func (c *call) OnClosed(*h2.Batch, *h2.Stream, uint32)     { c.note("closed") }

// cancel ends the call.
func (c *call) cancel() {
	do(func(b *h2.Batch) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.opened {
			c.s.Reset(b, h2.Cancel)
		} else {
			c.in.Leave(&c.wait)
		}
	})
}

// state says how the call stands, once nothing moves any more.
func (c *call) state() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err.Error()
	case c.closed:
		return fmt.Sprint(c.events)
	case c.queued:
		return "waits"
	case c.opened:
		return "open"
	}
	return "nowhere"
}

func (c *call) want(state string) {
	c.t.Helper()
	if got := c.state(); got != state {
		c.t.Fatalf("the call is %q, want %q", got, state)
	}
}

func do(f func(b *h2.Batch)) {
	var b h2.Batch
	f(&b)
	b.Done()
}

// open counts the calls that have a stream.
func open(calls []*call) (n int) {
	for _, c := range calls {
		if c.state() == "open" {
			n++
		}
	}
	return n
}
