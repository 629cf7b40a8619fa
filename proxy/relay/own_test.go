package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

const ownPrefix = "/pillion.mesh.v1.Mesh/"

// withOwn is a rig whose sidecar itself answers RPCs, at "m:1".
func withOwn(t *testing.T, o options, own *Own) (*guarded, *scriptpeer.Host) {
	t.Helper()
	o.Own = own
	g := newGuarded(t, o)
	up := upstream.Options{HTTP2: g.http2, Dial: g.net.Dial, Jitter: func() float64 { return 0.5 }}.WithDefaults()
	own.Cluster = upstream.NewCluster("sidecar", balance.PickFirst, &up, g.counts)
	own.Cluster.Update([]registry.Endpoint{{ID: "m:1", Address: "m:1", Weight: 1}}, false)
	t.Cleanup(own.Cluster.Close)
	return g, g.net.Listen("m:1")
}

// What the sidecar itself answers does not come to the app, and what holds for the app
// does not hold for it: neither who may call, nor its policies, nor how much it can do.
func TestWhatTheSidecarAnswers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		full, _ := gate(1, nil)
		g, m := withOwn(t, options{Config: Config{Gate: full}}, &Own{Prefix: ownPrefix})
		a := g.net.Listen("a:1")
		g.ask(a, 1, true) // the gate is full
		g.put()           // and nobody may call
		g.obey(`- {name: none, service: greeter, inbound: true, fault: {abort: {status: {code: ABORTED}, fraction: 10000}}}`)
		synctest.Wait()
		a.Conn().Frames()
		web := g.by("/svc/web", "web")
		web.Request(1, ownPrefix+"Report", false, "pillion-peer", "spiffe://mesh.test/svc/admin")
		got := m.Conn().Frames()
		request := got[len(got)-1]
		if request.Get(":path") != ownPrefix+"Report" || request.Get(wire.HeaderPeer) != "spiffe://mesh.test/svc/web" {
			t.Errorf("the sidecar is asked %v", request.Fields)
		}
		plain := g.by("", "")
		plain.Request(1, ownPrefix+"Evidence", true, "pillion-peer", "spiffe://mesh.test/svc/admin")
		got = m.Conn().Frames()
		if request := got[len(got)-1]; request.Get(wire.HeaderPeer) != "" {
			t.Errorf("of a caller in plaintext the sidecar is told %v", request.Fields)
		}
		// It goes on when other rules come.
		g.put(allow(from(t, "spiffe://mesh.test/svc/other")))
		time.Sleep(time.Second)
		m.Conn().Response(request.Stream)
		m.Conn().Trailers(request.Stream, "0")
		web.Want("HEADERS 1 :status=200*", "HEADERS 1 grpc-status=0 end", "RST_STREAM 1 NO_ERROR")
		m.Conn().TrailersOnly(3, "5")
		plain.Want("HEADERS 1 :status=200 grpc-status=5*")
		// What only looks like it is the app's.
		for i, path := range []string{"/pillion.mesh.v1.Mesh", ownPrefix, "/pillion.mesh.v1.MeshX/Report", "/pillion.mesh.v1.Hooks/Transition"} {
			id := uint32(3 + 2*i)
			web.Request(id, path, true)
			synctest.Wait()
			if f := web.Frames(); len(f) == 0 || f[0].Get("pillion-flags") != wire.FlagOverload.String() {
				t.Errorf("%s: the caller got %v, want what the app's callers get", path, f)
			}
		}
		if f := a.Conn().Frames(); len(f) != 0 {
			t.Errorf("the app got %v", f)
		}
		a.Conn().TrailersOnly(1, "0")
		g.Frames()
	})
}

// They have a bound of their own.
func TestTooManyForTheSidecarItself(t *testing.T) {
	simulated(t, func(t *testing.T) {
		counts := new(telemetry.Admission)
		g, m := withOwn(t, options{}, &Own{Prefix: ownPrefix, Gate: admission.NewGate(admission.Options{MaxRPCs: 1, Counts: counts})})
		a := g.net.Listen("a:1")
		web := g.by("/svc/web", "web")
		web.Request(1, ownPrefix+"Report", false)
		synctest.Wait()
		web.Request(3, ownPrefix+"Report", true)
		web.Want("HEADERS 3 :status=200 grpc-status=14 grpc-message=overloaded: as many RPCs to the sidecar itself* pillion-flags=OM end")
		web.Request(5, "/a.B/C", true)
		synctest.Wait()
		a.Conn().TrailersOnly(1, "0")
		web.Want("HEADERS 5 :status=200 grpc-status=0 end")
		m.Conn().TrailersOnly(1, "0")
		web.Frames()
		if n := counts.InFlight.Load(); n != 0 {
			t.Errorf("%d RPCs are still counted", n)
		}
	})
}

// Where nobody answers them they do not come to the app either.
func TestNobodyAnswersForTheSidecar(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{Config: Config{Own: &Own{Prefix: ownPrefix, Missing: "no control plane runs here"}}})
		a := g.net.Listen("a:1")
		g.gate.Set(access.New(access.NewRules(&access.Written{Name: "who"}), nil, access.Env{}))
		web := g.by("/svc/web", "web")
		web.Request(1, ownPrefix+"Report", true)
		web.Want("HEADERS 1 :status=200 grpc-status=12 grpc-message=no control plane runs here pillion-flags=NR end")
		if n := len(a.Conns()); n != 0 {
			t.Errorf("the app was connected to %d times", n)
		}
	})
}

// What all other RPCs pay for it: one comparison each.
func BenchmarkIsForTheSidecar(b *testing.B) {
	own := &Own{Prefix: ownPrefix}
	for _, path := range []string{"/a.B/C", "/helloworld.Greeter/SayHelloToEverybody", "/pillion.mesh.v1.Hooks/Transition"} {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if own.answers(path) {
					b.Fatal("it is not")
				}
			}
		})
	}
}
