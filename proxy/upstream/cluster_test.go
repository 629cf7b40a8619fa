package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/registry"
)

// An instance that is taken out of the registry finishes the streams it has;
// those that wait for it go elsewhere.
func TestRemovedInstancesFinishTheirStreams(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1", "b:1")
		a := r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first, second := r.call(in), r.call(in)
		second.want("waits")
		r.update("b:1")
		second.want(ErrGone.Error())
		first.want("open")
		r.call(in).want(ErrGone.Error())
		a.Conn().Want("HEADERS 1*", "GOAWAY 0 NO_ERROR")
		a.Conn().TrailersOnly(1, "0")
		first.want("[headers 200 closed]")
		time.Sleep(2 * time.Second)
		if !a.Conn().Closed() {
			t.Error("its connection is still open")
		}
	})
}

func TestRemovedInstanceStopsDialling(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ConnectTimeout: time.Hour}, "a:1", "b:1")
		r.net.Listen("a:1").Delay = time.Hour
		c := r.call(r.instance("a:1"))
		d := r.call(r.instance("b:1"))
		d.want("connecting to b:1: connection refused")
		r.update()
		c.want(ErrGone.Error())
		n := r.net.Dials("b:1")
		time.Sleep(time.Minute)
		if r.net.Dials("b:1") != n || r.net.Dials("a:1") != 1 {
			t.Error("instances that are gone are still dialled")
		}
		if n := r.counts.ConnectFailures.Load(); n != 1 {
			t.Errorf("%d connect failures are counted, want b's alone", n)
		}
	})
}

// An instance is gone while its connection is being made.
func TestRemovedInstanceWhoseConnectionComesLate(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		a.Silent = true
		c := r.call(r.instance("a:1"))
		c.want("waits")
		r.update()
		c.want(ErrGone.Error())
		time.Sleep(2 * time.Second)
		if !a.Conn().Closed() || r.counts.Connections.Load() != 0 {
			t.Error("the connection of an instance that is gone stays")
		}
	})
}

// The same id at another address is another instance.
func TestMovedInstance(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.cluster.Update([]registry.Endpoint{{ID: "x", Address: "a:1"}}, false)
		r.net.Listen("a:1")
		b := r.net.Listen("b:1")
		first := r.call(r.instance("a:1"))
		first.want("open")
		r.cluster.Update([]registry.Endpoint{{ID: "x", Address: "b:1"}}, true)
		in, ok := r.cluster.Pick(nil)
		if !ok || in.String() != "b:1" {
			t.Fatalf("picked %v", in)
		}
		r.call(in).want("open")
		b.Conn().Want("HEADERS 1*")
		first.want("open")
		if !r.cluster.Status().Stale {
			t.Error("the cluster does not say that it is stale")
		}
	})
}

// What stays keeps its connections, with what the registry says of it now.
func TestInstancesThatStayKeepTheirConnections(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{}, "a:1")
		a := r.net.Listen("a:1")
		in := r.instance("a:1")
		r.call(in).want("open")
		r.cluster.Update([]registry.Endpoint{
			{ID: "a:1", Address: "a:1", Weight: 5, Meta: map[string]string{"version": "v2"}},
			{ID: "a:1", Address: "a:1"}, // twice: the first counts
			{ID: "bad", Address: "no address"},
			{ID: "b", Address: "b:1"},
		}, false)
		if r.instance("a:1") != in || r.cluster.Size() != 2 || in.Endpoint().Meta["version"] != "v2" {
			t.Fatalf("%d instances, a is the same: %v, %+v", r.cluster.Size(), r.instance("a:1") == in, in.Endpoint())
		}
		r.call(in).want("open")
		if n := len(a.Conns()); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

func TestClose(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 1}, "a:1")
		a := r.net.Listen("a:1", maxStreams(1))
		in := r.instance("a:1")
		first, second := r.call(in), r.call(in)
		second.want("waits")
		r.cluster.Close()
		second.want(ErrGone.Error())
		first.want("open")
		r.update("a:1")
		if _, ok := r.cluster.Pick(nil); ok || r.cluster.Size() != 0 {
			t.Error("a closed cluster takes endpoints")
		}
		a.Conn().TrailersOnly(1, "0")
		first.want("[headers 200 closed]")
	})
}

// Every instance's connections, waits and counts return to nothing, whatever
// order things happen in.
func TestManyCallsOverLimitedConnections(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{MaxConns: 3}, "a:1")
		r.net.Listen("a:1", maxStreams(7))
		in := r.instance("a:1")
		var calls []*call
		for range 200 {
			calls = append(calls, r.call(in))
		}
		if n := open(calls); n != 21 {
			t.Fatalf("%d streams are open, want 21", n)
		}
		for i := 0; i < len(calls); i += 2 { // some wait, some are open
			calls[i].cancel()
		}
		for range 10 {
			for _, c := range calls {
				if c.state() == "open" {
					c.cancel()
				}
			}
		}
		synctest.Wait()
		if st := in.status(); st.Waiting != 0 {
			t.Errorf("%d calls wait, though nothing is open: a wake-up was lost", st.Waiting)
		}
		var b h2.Batch
		b.Done()
	})
}
