package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// circuit returns what there is to tell of a method's circuit.
func (r *rig) circuit(path string) breaker.CircuitStatus {
	return r.router.policies.Load().Service("greeter").Outbound(path).Breaker.Circuit("greeter", path).State(time.Now())
}

const breakerPolicy = `
- name: break
  service: greeter
  circuit_breaker: {trip: {consecutive_failures: 2, open_for: 5s, probes: 1}}
`

func TestOpenBreaker(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, breakerPolicy)
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		in.TrailersOnly(1, "14")
		r.ask(a, 3, true)
		in.Response(3)
		in.Trailers(3, "13") // a status in trailers counts as well
		r.Lines()
		r.Request(5, "/a.B/C", true)
		r.Want(`HEADERS 5 :status=200 grpc-status=14 grpc-message=policy "break": circuit breaker of greeter a.B/C is open: 2 failures in a row pillion-flags=UO end`)
		quiet(t, a)
		if n := r.failures(wire.FlagOverflow); n != 1 {
			t.Errorf("%d RPCs counted as refused", n)
		}
		r.Request(7, "/a.B/Other", true) // has a breaker of its own
		in.Want("HEADERS 5 :path=/a.B/Other end")
		in.TrailersOnly(5, "0")
		r.Want("HEADERS 7 :status=200 grpc-status=0 end")
		time.Sleep(5 * time.Second)
		r.Request(9, "/a.B/C", true) // is let through to see
		r.Request(11, "/a.B/C", true)
		r.Want(`HEADERS 11 :status=200 grpc-status=14 * pillion-flags=UO end`)
		in.Want("HEADERS 7 :path=/a.B/C end")
		in.TrailersOnly(7, "0")
		r.Want("HEADERS 9 :status=200 grpc-status=0 end")
		r.ask(a, 13, true)
		in.TrailersOnly(9, "0")
		r.Want("HEADERS 13 :status=200 grpc-status=0 end")
	})
}

// What a breaker counts, and what it does not.
func TestBreakerCounts(t *testing.T) {
	fails := func(pairs ...string) reaction { return answers("14", pairs...) }
	for what, c := range map[string]struct {
		does    reaction // of the instance, twice
		request []string
		opens   bool
	}{
		"failures":                             {does: fails(), opens: true},
		"failures in trailers":                 {does: failsInTrailers, opens: true},
		"resets":                               {does: resets(http2.ErrCodeInternal), opens: true},
		"what the caller did wrong":            {does: answers("3")},
		"another sidecar's rate limit":         {does: fails("pillion-flags", "RL")},
		"another sidecar's breaker":            {does: fails("pillion-flags", "UO")},
		"another sidecar's overload":           {does: fails("pillion-flags", "OM")},
		"another sidecar that has no app":      {does: fails("pillion-flags", "UF"), opens: true},
		"the deadline":                         {does: silent, request: []string{"grpc-timeout", "100m"}, opens: true},
		"another sidecar's limit, in trailers": {does: limitedInTrailers},
	} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := governedRig(t, options{Config: Config{Retry: Retry{MaxAttempts: 1}}}, breakerPolicy)
				hosts := r.listen(1)
				for i := range uint32(2) {
					r.Request(2*i+1, "/a.B/C", true, c.request...)
					r.play(hosts, c.does)
				}
				if got := r.circuit("/a.B/C").Breaker.State == breaker.Open; got != c.opens {
					t.Errorf("open: %v, want %v", got, c.opens)
				}
			})
		})
	}
	t.Run("an RPC that the caller cancels", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, breakerPolicy)
			a := r.net.Listen("a:1")
			for i := range uint32(4) {
				r.ask(a, 2*i+1, true)
				r.Reset(2*i+1, http2.ErrCodeCancel)
				synctest.Wait()
			}
			if s := r.circuit("/a.B/C").Breaker.State; s != breaker.Closed {
				t.Errorf("it is %v", s)
			}
		})
	})
}

// What is slow is the destination, from when it gets the RPC to the first byte: not a
// fault's delay, nor a wait for a place, nor a stream that lasts.
func TestSlowCalls(t *testing.T) {
	const policies = `
- name: break
  service: greeter
  circuit_breaker: {trip: {slow_call_ratio: 1, slow_call: 1s, min_volume: 2, window: 60s}, max_concurrent: 1, max_pending: 1}
- name: late
  service: greeter
  fault: {delay: {for: 3s, fraction: 10000}, match: {metadata: [{key: late, present: true}]}}
`
	for what, c := range map[string]struct {
		late  bool
		wait  time.Duration // until headers
		after time.Duration // until the end
		opens bool
	}{
		"slow":                           {wait: 1500 * time.Millisecond, opens: true},
		"quick":                          {wait: 500 * time.Millisecond},
		"a stream that lasts":            {wait: 500 * time.Millisecond, after: 10 * time.Second},
		"a delay that was made":          {late: true, wait: 500 * time.Millisecond},
		"a delay, and it is slow, too":   {late: true, wait: 1001 * time.Millisecond, opens: true},
		"just as long as is still quick": {wait: time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := governedRig(t, options{}, policies)
				a := r.net.Listen("a:1")
				var pairs []string
				if c.late {
					pairs = []string{"late", "1"}
				}
				for i := range uint32(2) {
					r.Request(2*i+1, "/a.B/C", true, pairs...)
					if c.late {
						synctest.Wait()
						time.Sleep(3 * time.Second)
					}
					_, in := request(t, a)
					time.Sleep(c.wait)
					in.Response(2*i + 1)
					synctest.Wait()
					time.Sleep(c.after)
					in.Trailers(2*i+1, "0")
					synctest.Wait()
				}
				if got := r.circuit("/a.B/C").Breaker.State == breaker.Open; got != c.opens {
					t.Errorf("open: %v, want %v", got, c.opens)
				}
			})
		})
	}
	t.Run("a wait for a place", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := governedRig(t, options{}, policies)
			in := r.ask(r.net.Listen("a:1"), 1, true)
			in.Response(1)
			r.Request(3, "/a.B/C", true)
			synctest.Wait()
			time.Sleep(5 * time.Second)
			in.Trailers(1, "0")
			in.Want("HEADERS 3 *")
			in.TrailersOnly(3, "0")
			synctest.Wait()
			if s := r.circuit("/a.B/C").Breaker.State; s != breaker.Closed {
				t.Errorf("it is %v", s)
			}
		})
	})
}

func failsInTrailers(p *scriptpeer.Peer, id uint32) {
	p.Response(id)
	p.Trailers(id, "14")
}

func limitedInTrailers(p *scriptpeer.Peer, id uint32) {
	p.Response(id)
	p.Trailers(id, "14", "pillion-flags", "RL")
}

func TestPlaces(t *testing.T) {
	const policies = `
- name: limit
  service: greeter
  circuit_breaker: {max_concurrent: 2, max_pending: 3}
`
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, policies)
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		r.ask(a, 3, true)
		for _, id := range []uint32{5, 7} {
			r.Request(id, "/a.B/C", true)
		}
		r.Request(9, "/a.B/C", false, "grpc-timeout", "1S")
		r.Message(9, 10, false)
		r.Request(11, "/a.B/C", true)
		r.Want(`HEADERS 11 :status=200 grpc-status=14 grpc-message=policy "limit": circuit breaker of greeter a.B/C: 2 RPCs are under way (max_concurrent) and 3 wait (max_pending), as many as may pillion-flags=UO end`)
		if s := r.circuit("/a.B/C"); s.UnderWay != 2 || s.Waiting != 3 {
			t.Fatalf("%+v", s)
		}
		quiet(t, a)
		time.Sleep(400 * time.Millisecond)
		r.Reset(5, http2.ErrCodeCancel) // the first that waits
		synctest.Wait()
		in.TrailersOnly(1, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end")
		in.Want("HEADERS 5 :path=/a.B/C end")
		if s := r.circuit("/a.B/C"); s.UnderWay != 2 || s.Waiting != 1 {
			t.Fatalf("%+v", s)
		}
		time.Sleep(600 * time.Millisecond)
		r.Want(`HEADERS 9 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded while it waited for a place among those under way to service "greeter" (max_concurrent of policy "limit") pillion-flags=DT end`, "RST_STREAM 9 NO_ERROR")
		r.Request(15, "/a.B/C", false)
		r.Message(15, 10, true)
		r.Request(17, "/a.B/C", true)
		synctest.Wait()
		in.TrailersOnly(5, "5")
		r.Want("HEADERS 7 :status=200 grpc-status=5 end")
		in.Want("HEADERS 7 :path=/a.B/C", "DATA 7 15 end")
		r.Reset(3, http2.ErrCodeCancel) // under way
		in.Want("RST_STREAM 3 CANCEL", "HEADERS 9 :path=/a.B/C end")
		in.TrailersOnly(7, "0")
		in.TrailersOnly(9, "0")
		synctest.Wait()
		if s := r.circuit("/a.B/C"); s.UnderWay != 0 || s.Waiting != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// Those that wait are told when the breaker opens, and those that fail at once do not
// pile up on the stack of the one that woke them.
func TestWaitersFail(t *testing.T) {
	const policies = `
- name: limit
  service: greeter
  circuit_breaker: {trip: {consecutive_failures: 100, open_for: 5s}, max_concurrent: 1, max_pending: 10000}
`
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{http2: h2.Config{MaxConcurrentStreams: 1000}}, policies)
		in := r.ask(r.net.Listen("a:1"), 1, true)
		for i := range uint32(300) {
			r.Request(2*i+3, "/a.B/C", true)
		}
		synctest.Wait()
		if s := r.circuit("/a.B/C"); s.UnderWay != 1 || s.Waiting != 300 {
			t.Fatalf("%+v", s)
		}
		r.cluster.Update(nil, false)
		in.TrailersOnly(1, "14")
		nobody, open := 0, 0
		for _, f := range r.Frames() {
			switch f.Get("pillion-flags") {
			case "UH":
				nobody++
			case "UO":
				open++
			}
		}
		if nobody != 99 || open != 201 {
			t.Errorf("%d had no instance, %d met an open breaker", nobody, open)
		}
		if s := r.circuit("/a.B/C"); s.UnderWay != 0 || s.Waiting != 0 || s.Breaker.State != breaker.Open {
			t.Errorf("%+v", s)
		}
	})
}
