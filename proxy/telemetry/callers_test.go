package telemetry

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is known of a caller is the sum of what came over its connections, open and
// closed.
func TestCallers(t *testing.T) {
	t.Parallel()
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	web, plain := CallerKey{ID: "spiffe://a.test/svc/web", Host: "10.0.0.1"}, CallerKey{Host: "10.0.0.2"}
	var c Callers
	one, two, other := c.Connected(web), c.Connected(web), c.Connected(plain)
	one.RPC(at(10))
	two.RPC(at(5))
	one.RPC(at(20))
	one.Closed()
	other.RPC(at(30))
	c.Connected(CallerKey{Host: "10.0.0.3"}).Closed() // no RPC came
	got, forgotten := c.Report()
	want := []CallerReport{
		{CallerKey: plain, RPCs: 1, Connections: 1, First: at(30), Last: at(30)},
		{CallerKey: web, RPCs: 3, Connections: 1, First: at(5), Last: at(20)},
	}
	if !slices.Equal(got, want) || forgotten != 0 {
		t.Errorf("got %v and %d forgotten, want %v", got, forgotten, want)
	}
	one.RPC(at(40)) // late: the connection has ended
	if got, _ := c.Report(); !slices.Equal(got, want) {
		t.Errorf("after a late RPC: %v, want %v", got, want)
	}
}

// Whoever called longest ago is forgotten, and comes back with its next RPC.
func TestCallersAreBounded(t *testing.T) {
	t.Parallel()
	c := Callers{Max: 10}
	var conns []*CallerConn
	for i := range 25 {
		cc := c.Connected(CallerKey{Host: fmt.Sprint(i)})
		cc.RPC(time.Unix(int64(i+1), 0))
		conns = append(conns, cc)
	}
	got, forgotten := c.Report()
	if len(got) != 10 || forgotten != 15 || got[9].Host != "15" {
		t.Fatalf("%d callers, %d forgotten, the last is %v", len(got), forgotten, got[len(got)-1])
	}
	conns[3].RPC(time.Unix(100, 0))
	if got, _ = c.Report(); got[0].Host != "3" || got[0].RPCs != 2 || len(got) != 10 {
		t.Errorf("a forgotten caller that calls again is %v", got[0])
	}
}

// However many others there are, somebody who comes without TLS is remembered: where the
// report has nobody, there was nobody.
func TestCallersWithoutTLSAreForgottenLast(t *testing.T) {
	t.Parallel()
	c := Callers{Max: 10}
	c.Connected(CallerKey{Host: "plain"}).RPC(time.Unix(1, 0))
	for i := range 25 {
		c.Connected(CallerKey{ID: fmt.Sprint("spiffe://a.test/", i), Host: "proven"}).RPC(time.Unix(int64(i+2), 0))
	}
	got, forgotten := c.Report()
	if !slices.ContainsFunc(got, func(r CallerReport) bool { return r.Host == "plain" }) || len(got) != 10 || forgotten != 16 {
		t.Errorf("%d forgotten, got %v", forgotten, got)
	}
}

// Where there are more callers than are remembered, each of their RPCs may find its own
// forgotten: that costs it no look at all of them.
func TestForgottenCallersComeBackForLittle(t *testing.T) {
	t.Parallel()
	var c Callers
	conns := make([]*CallerConn, 2*maxCallers)
	for i := range conns {
		conns[i] = c.Connected(CallerKey{ID: "spiffe://a.test/x", Host: fmt.Sprint(i)})
		conns[i].RPC(time.Unix(int64(i), 0))
	}
	before := c.forgotten
	looks := 0
	for i, cc := range conns {
		known := c.forgotten
		if cc.RPC(time.Unix(int64(len(conns)+i), 0)); c.forgotten != known {
			looks++
		}
	}
	if c.forgotten == before || looks > len(conns)/(maxCallers/10)+1 {
		t.Errorf("%d RPCs have looked through all callers %d times", len(conns), looks)
	}
}

// No RPC is lost or counted twice, whatever ends meanwhile.
func TestCallersInParallel(t *testing.T) {
	t.Parallel()
	var c Callers
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				cc := c.Connected(CallerKey{Host: fmt.Sprint(i % 2)})
				for n := range 20 {
					cc.RPC(time.Unix(int64(n+1), 0))
				}
				cc.Closed()
				c.Report()
			}
		})
	}
	wg.Wait()
	got, _ := c.Report()
	for _, r := range got {
		if r.RPCs != 4*50*20 || r.Connections != 0 {
			t.Errorf("%+v, want %d RPCs", r, 4*50*20)
		}
	}
}

// The table against a list of all that happened.
func TestCallersModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c Callers
		var open []*CallerConn
		rpcs, conns := map[string]uint64{}, map[*CallerConn]bool{}
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				cc := c.Connected(CallerKey{Host: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "host")})
				open = append(open, cc)
			case 1:
				if len(open) > 0 {
					cc := rapid.SampledFrom(open).Draw(t, "conn")
					cc.RPC(time.Unix(int64(step+1), 0))
					rpcs[cc.key.Host]++
					conns[cc] = true
				}
			case 2:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(t, "closed")
					open[i].Closed()
					delete(conns, open[i])
					open = slices.Delete(open, i, i+1)
				}
			}
		}
		got, _ := c.Report()
		if len(got) != len(rpcs) {
			t.Fatalf("%d callers, want %d", len(got), len(rpcs))
		}
		for _, r := range got {
			n := 0
			for cc := range conns {
				if cc.key == r.CallerKey {
					n++
				}
			}
			if r.RPCs != rpcs[r.Host] || r.Connections != n {
				t.Fatalf("%+v, want %d RPCs and %d connections", r, rpcs[r.Host], n)
			}
		}
	})
}
