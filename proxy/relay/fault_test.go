package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestFaults(t *testing.T) {
	const policies = `
- name: late
  service: greeter
  fault: {delay: {for: 2s, fraction: 10000}, max_active: 2, match: {metadata: [{key: do, exact: delay}]}}
- name: broken
  service: greeter
  methods: ["a.B/Abort"]
  fault: {abort: {status: {code: DATA_LOSS}, fraction: 10000}}
- name: both
  service: greeter
  methods: ["a.B/Both"]
  fault: {delay: {for: 2s, fraction: 10000}, abort: {status: {code: ABORTED, message: no luck}, fraction: 10000}}
- name: theirs
  service: greeter
  methods: ["a.B/Theirs"]
  fault: {allow_metadata: true, delay: {fraction: 10000}, abort: {fraction: 10000}}
`
	active := func(r *rig, path string) int {
		return r.router.policies.Load().Service("greeter").Outbound(path).Fault.Counts().Active
	}
	t.Run("a delay", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			a := r.net.Listen("a:1")
			r.Request(1, "/a.B/C", false, "do", "delay", "grpc-timeout", "10S")
			r.Message(1, 10, false) // meanwhile
			time.Sleep(2*time.Second - 1)
			quiet(t, a)
			time.Sleep(time.Nanosecond)
			a.Conn().Want("HEADERS 1 :path=/a.B/C grpc-timeout=8005000u", "DATA 1 15")
			r.Message(1, 5, true)
			a.Conn().Want("DATA 1 10 end")
			a.Conn().TrailersOnly(1, "0")
			r.Want(answered)
		})
	})
	t.Run("the deadline passes meanwhile", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			r.Request(1, "/a.B/C", true, "do", "delay", "grpc-timeout", "1S")
			time.Sleep(time.Second)
			r.Want(`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded while policy "late" delayed it pillion-flags=DI end`)
			r.logged(map[string]any{"flag": "DI", "attempts": 0})
			if n := active(r, "/a.B/C"); n != 0 {
				t.Errorf("%d are delayed still", n)
			}
		})
	})
	t.Run("cancelled meanwhile", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			a := r.net.Listen("a:1")
			for i := range uint32(3) { // the third is beyond max_active
				r.Request(2*i+1, "/a.B/C", true, "do", "delay")
			}
			_, in := request(t, a)
			in.TrailersOnly(1, "0")
			r.Want("HEADERS 5 :status=200 grpc-status=0 end")
			if n := active(r, "/a.B/C"); n != 2 {
				t.Fatalf("%d are delayed", n)
			}
			r.Reset(1, http2.ErrCodeCancel)
			r.Want()
			if n := active(r, "/a.B/C"); n != 1 {
				t.Fatalf("%d are delayed", n)
			}
			r.Request(7, "/a.B/C", true, "do", "delay")
			quiet(t, a)
			time.Sleep(2 * time.Second)
			if requests := a.Conn().Lines(); len(requests) != 2 || active(r, "/a.B/C") != 0 {
				t.Errorf("the instance got %q, %d are delayed", requests, active(r, "/a.B/C"))
			}
			in.TrailersOnly(3, "0")
			in.TrailersOnly(5, "0")
		})
	})
	t.Run("an abort", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			a := r.net.Listen("a:1")
			r.Request(1, "/a.B/Abort", true)
			r.Want(`HEADERS 1 :status=200 grpc-status=15 grpc-message=policy "broken": a fault was injected pillion-flags=FI end`)
			r.Request(3, "/a.B/Both", true)
			time.Sleep(2*time.Second - 1)
			r.Want()
			time.Sleep(time.Nanosecond)
			r.Want(`HEADERS 3 :status=200 grpc-status=10 grpc-message=no luck pillion-flags=FI end`)
			quiet(t, a)
			for _, path := range []string{"/a.B/Abort", "/a.B/Both"} {
				if n := active(r, path); n != 0 {
					t.Errorf("%s: %d are under a fault still", path, n)
				}
			}
			if n := r.failures(wire.FlagFaultInjected); n != 2 {
				t.Errorf("%d RPCs counted as failed by a fault", n)
			}
		})
	})
	t.Run("as the caller chooses", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			a := r.net.Listen("a:1")
			r.Request(1, "/a.B/Theirs", true, "pillion-fault-delay-ms", "500", "pillion-fault-abort", "NOT_FOUND")
			time.Sleep(500*time.Millisecond - 1)
			r.Want()
			time.Sleep(time.Nanosecond)
			r.Want(`HEADERS 1 :status=200 grpc-status=5 * pillion-flags=FI end`)
			r.Request(3, "/a.B/Theirs", true)
			_, in := request(t, a)
			in.TrailersOnly(1, "0")
			r.Want("HEADERS 3 :status=200 grpc-status=0 end")
		})
	})
}

// How long the app takes is what the adaptive limit goes by: not how long a policy had
// an RPC wait.
func TestDelaysAreNotTheAppsLatency(t *testing.T) {
	for what, metadata := range map[string]string{"then sent": "delay", "then ended": "end"} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				g, counts := gate(0, &admission.Concurrency{})
				r := governedRig(t, options{Config: Config{Side: telemetry.Inbound, Gate: g}}, `
- {name: late, service: greeter, inbound: true, fault: {delay: {for: 500ms, fraction: 10000}, match: {metadata: [{key: do, exact: delay}]}}}
`)
				a := r.net.Listen("a:1")
				id := uint32(1)
				quick := func(pairs ...string) {
					t.Helper()
					r.Request(id, "/a.B/C", true, pairs...)
					if id += 2; len(pairs) > 0 {
						synctest.Wait()
						time.Sleep(500 * time.Millisecond)
					}
					f, in := request(t, a)
					time.Sleep(10 * time.Millisecond)
					in.TrailersOnly(f.Stream, "0")
					r.answer()
				}
				for range 300 {
					quick()
				}
				before := time.Duration(counts.Latency.Load())
				for range 300 {
					if metadata == "delay" {
						quick("do", "delay")
						continue
					}
					r.Request(id, "/a.B/C", true, "do", "delay", "grpc-timeout", "400m")
					id += 2
					synctest.Wait()
					time.Sleep(400 * time.Millisecond)
					r.answer()
				}
				for range 300 {
					quick()
				}
				if after := time.Duration(counts.Latency.Load()); before == 0 || after > before+before/5 {
					t.Errorf("the app's latency was %v, and is %v now", before, after)
				}
			})
		})
	}
}
