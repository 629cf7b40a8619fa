package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// gate returns a gate for max RPCs, and what it counts.
func gate(max int, c *admission.Concurrency) (*admission.Gate, *telemetry.Admission) {
	counts := new(telemetry.Admission)
	return admission.NewGate(admission.Options{MaxRPCs: max, Concurrency: c, Counts: counts}), counts
}

// What is above the bound is refused at its headers; those under way are not
// hurt, and as soon as one of them ends the next one may begin.
func TestTooManyRPCs(t *testing.T) {
	for side, status := range map[telemetry.Kind]string{telemetry.Inbound: "14", telemetry.Outbound: "8"} {
		t.Run(side.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				g, counts := gate(2, nil)
				r := newRig(t, options{Config: Config{Side: side, Gate: g}})
				a := r.net.Listen("a:1")
				in := r.ask(a, 1, true)
				r.ask(a, 3, true)
				r.Request(5, "/a.B/C", true)
				r.Want("HEADERS 5 :status=200 grpc-status=" + status + " grpc-message=overloaded: as many RPCs are under way* pillion-flags=OM end")
				r.Request(7, "/a.B/C", false)
				r.Want("HEADERS 7 :status=200 grpc-status="+status+"* pillion-flags=OM end", "RST_STREAM 7 NO_ERROR")
				in.Want()
				in.TrailersOnly(1, "0")
				r.Want("HEADERS 1 :status=200 grpc-status=0 end")
				r.ask(a, 9, true)
				in.TrailersOnly(3, "0")
				in.TrailersOnly(5, "0")
				r.Want("HEADERS 3 :status=200 grpc-status=0 end", "HEADERS 9 :status=200 grpc-status=0 end")
				if n := counts.InFlight.Load(); n != 0 {
					t.Errorf("%d RPCs are still counted", n)
				}
				if n := counts.Shed[telemetry.ShedMaxRPCs].Load(); n != 2 {
					t.Errorf("%d RPCs count as shed, want 2", n)
				}
			})
		})
	}
}

// What is no gRPC is told so at once, instead of waiting for the request's end.
func TestTooManyThatAreNoGRPC(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g, _ := gate(1, nil)
		r := newRig(t, options{Config: Config{Gate: g}})
		r.ask(r.net.Listen("a:1"), 1, true)
		r.Headers(3, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a", "content-type", "text/html")
		r.Want("HEADERS 3 :status=415", "DATA 3 70 end", "RST_STREAM 3 NO_ERROR")
	})
}

// A caller that does not read the answers cannot have the sidecar keep them
// without end: at last its streams are only reset.
func TestRefusalsThatNobodyReads(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g, counts := gate(1, nil)
		r := newRig(t, options{Config: Config{Gate: g}, http2: h2.Config{MaxOutput: 4 << 10}})
		r.ask(r.net.Listen("a:1"), 1, true)
		release := r.Hold()
		most, refused := int64(0), 0
		for id := uint32(3); id < 4000; id += 2 {
			r.Request(id, "/a.B/C", true, "x", "a field so that the answers are not all that there is")
			most = max(most, counts.InFlight.Load())
		}
		synctest.Wait()
		release()
		for _, f := range r.Frames() {
			if f.Type == http2.FrameRSTStream && f.Code == http2.ErrCodeRefusedStream {
				refused++
			}
		}
		if most > 1+100+1 || refused == 0 {
			t.Errorf("%d RPCs held memory, want few more than the bound of 1; %d streams were refused", most, refused)
		}
	})
}

// An RPC that a sidecar refuses because of its app's load goes to one other
// instance, not more, and never back.
func TestOverloadedInstances(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 3})
		a, b, c := r.net.Listen("a:1"), r.net.Listen("b:1"), r.net.Listen("c:1")
		first := r.ask(a, 1, true)
		first.TrailersOnly(1, "14", wire.HeaderFlags, "OM")
		b.Conn().Want("HEADERS 1*")
		b.Conn().TrailersOnly(1, "14", wire.HeaderFlags, "OM")
		r.Want("HEADERS 1 :status=200 grpc-status=14 pillion-flags=OM end")
		if n := len(c.Conns()); n != 0 {
			t.Error("a third instance was asked")
		}
		// Neither is left alone for it.
		r.ask(a, 3, true).TrailersOnly(3, "0")
		r.Want("HEADERS 3 :status=200 grpc-status=0 end")
	})
}

func TestTheOnlyInstanceIsOverloaded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.ask(r.net.Listen("a:1"), 1, true).TrailersOnly(1, "14", wire.HeaderFlags, "OM")
		r.Want("HEADERS 1 :status=200 grpc-status=14 pillion-flags=OM end")
	})
}

// Where all instances are overloaded, going elsewhere stops; where they accept
// RPCs again, it comes back.
func TestAllInstancesAreOverloaded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		id := uint32(1)
		rpc := func(answer func(in *scriptpeer.Peer, stream uint32)) (attempts int) {
			r.Request(id, "/a.B/C", true)
			id += 2
			for asked := true; asked; {
				asked = false
				synctest.Wait()
				for _, h := range []*scriptpeer.Host{a, b} {
					for _, in := range h.Conns() {
						for _, f := range in.Frames() {
							if f.Type == http2.FrameHeaders {
								attempts, asked = attempts+1, true
								answer(in, f.Stream)
							}
						}
					}
				}
			}
			r.Frames()
			return attempts
		}
		refuse := func(in *scriptpeer.Peer, stream uint32) { in.TrailersOnly(stream, "14", wire.HeaderFlags, "OM") }
		accept := func(in *scriptpeer.Peer, stream uint32) { in.TrailersOnly(stream, "0") }
		sum := 0
		for range 200 {
			sum += rpc(refuse)
		}
		if sum != 250 {
			t.Errorf("200 RPCs made %d attempts, want 50 more", sum)
		}
		for range 600 {
			rpc(accept)
		}
		if n := rpc(refuse); n != 2 {
			t.Errorf("%d attempts once the instances were well again, want 2", n)
		}
	})
}

// The limit counts an RPC until the app begins to answer: a stream that is
// answered holds nothing up.
func TestConcurrencyLimit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g, counts := gate(0, &admission.Concurrency{InitialLimit: 2})
		r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Gate: g, Shield: true}})
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		r.ask(a, 3, true)
		r.Request(5, "/a.B/C", true)
		r.Want("HEADERS 5 :status=200 grpc-status=14 grpc-message=overloaded: the app has as many RPCs* pillion-flags=OM end")
		r.Request(7, "/grpc.health.v1.Health/Check", true) // is let through
		in.Want("HEADERS 5*")
		in.Response(1)
		r.Want("HEADERS 1 :status=200")
		r.ask(a, 9, true)
		for _, f := range in.Frames() {
			t.Errorf("unexpected: %v", f)
		}
		if n := counts.Waiting.Load(); n != 2 {
			t.Errorf("%d RPCs count as waiting, want 2", n)
		}
		for _, id := range []uint32{3, 5, 7} {
			in.TrailersOnly(id, "0")
		}
		in.Trailers(1, "0")
		synctest.Wait()
		if n := counts.Waiting.Load(); n != 0 {
			t.Errorf("%d RPCs count as waiting, want none", n)
		}
		if n := counts.Shed[telemetry.ShedConcurrency].Load(); n != 1 {
			t.Errorf("%d RPCs count as shed, want 1", n)
		}
	})
}

// Whatever ends an RPC, it is counted no longer.
func TestNoEndLeavesAnRPCCounted(t *testing.T) {
	for name, end := range map[string]func(r *rig, in *scriptpeer.Peer){
		"the caller cancels":      func(r *rig, _ *scriptpeer.Peer) { r.Reset(1, http2.ErrCodeCancel) },
		"the caller is gone":      func(r *rig, _ *scriptpeer.Peer) { r.Close() },
		"the deadline passes":     func(*rig, *scriptpeer.Peer) { time.Sleep(2 * time.Second) },
		"the app resets":          func(_ *rig, in *scriptpeer.Peer) { in.Reset(1, http2.ErrCodeInternal) },
		"the app is gone":         func(_ *rig, in *scriptpeer.Peer) { in.Close() },
		"the app breaks off late": func(_ *rig, in *scriptpeer.Peer) { in.Response(1); in.Reset(1, http2.ErrCodeCancel) },
		"it is refused at first":  func(_ *rig, in *scriptpeer.Peer) { in.Reset(1, http2.ErrCodeRefusedStream); in.TrailersOnly(3, "0") },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				g, counts := gate(10, &admission.Concurrency{})
				r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Gate: g}})
				in := r.ask(r.net.Listen("a:1"), 1, true, "grpc-timeout", "1S")
				if n := counts.Waiting.Load(); n != 1 {
					t.Fatalf("%d RPCs count as waiting, want 1", n)
				}
				end(r, in)
				synctest.Wait()
				if w, f := counts.Waiting.Load(), counts.InFlight.Load(); w != 0 || f != 0 {
					t.Errorf("%d waiting, %d in flight, want none", w, f)
				}
			})
		})
	}
}

// The budget does not count the small requests of the first RPCs, but all of
// those that come after them.
func TestWhatIsKeptOfManyRequestsIsCounted(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const size = 1000
		g, _ := gate(0, nil)
		r := newRig(t, options{Config: Config{Gate: g}, budget: 2 * 150 * (size + 5), http2: manyStreams(maxUncounted + 300)})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Window(0, 1<<30) // nothing waits for it
		id := uint32(3)
		for i := range maxUncounted - 1 {
			r.Request(id, "/a.B/C", false)
			r.Message(id, size, true)
			id += 2
			if i%50 == 0 {
				synctest.Wait() // until the instance has it, or it would be parked
			}
		}
		synctest.Wait()
		if n := r.proxy.cfg.Budget.Used(); n != 0 {
			t.Errorf("%d bytes are counted, want none", n)
		}
		for range 100 {
			r.Request(id, "/a.B/C", false)
			r.Message(id, size, true)
			id += 2
		}
		synctest.Wait()
		if n := r.proxy.cfg.Budget.Used(); n != 100*(size+5) {
			t.Errorf("%d bytes are counted, want %d", n, 100*(size+5))
		}
		for range 100 {
			r.Request(id, "/a.B/C", false)
			r.Message(id, size, true)
			id += 2
		}
		synctest.Wait()
		// One destination has half of the budget. RPCs beyond that go on, with no
		// other attempt should they need one.
		if n := r.proxy.cfg.Budget.Used(); n > 150*(size+5) || n <= 100*(size+5) {
			t.Errorf("%d bytes are counted, want at most %d", n, 150*(size+5))
		}
		r.Want()
		in.Close()
	})
}

func manyStreams(n uint32) h2.Config { return h2.Config{MaxConcurrentStreams: n} }
