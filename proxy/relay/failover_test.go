package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

const failoverPolicies = `
- {name: versions, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}, default: v1}}
- {name: elsewhere, service: greeter, load_balancing: {failover: [{service: first}, {subset: v2}, {service: last}]}}
`

// away is a rig whose greeter is a:1 in version v1 and b:1 in v2, where nobody listens
// by default.
func away(t *testing.T, policies string) *rig {
	r := newRig(t, options{Config: Config{Random: even}, instances: 2})
	r.versions(2)
	r.service("first", "f:1")
	r.service("last", "l:1")
	r.obey(policies)
	return r
}

func TestFailover(t *testing.T) {
	for what, c := range map[string]struct {
		listening []string
		want      string
	}{
		"not while one is there":                    {[]string{"a:1", "b:1", "f:1", "l:1"}, "a:1"},
		"to the first place":                        {[]string{"b:1", "f:1", "l:1"}, "f:1"},
		"to a subset of the service that it was to": {[]string{"b:1", "l:1"}, "b:1"},
		"to the last":                               {[]string{"l:1"}, "l:1"},
	} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := away(t, failoverPolicies)
				for _, l := range c.listening {
					r.net.Listen(l)
				}
				host := r.net.Listen(c.want)
				r.Request(1, "/a.B/C", false)
				r.Message(1, 10, true)
				in := host.Conn()
				in.Want("HEADERS 1 :path=/a.B/C", "DATA 1 15 end")
				in.TrailersOnly(1, "0")
				r.Want(answered)
			})
		})
	}
	t.Run("and fails in the end", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := away(t, failoverPolicies)
			r.Request(1, "/a.B/C", true)
			r.Want(`HEADERS 1 :status=200 grpc-status=14 grpc-message=service "last": no instance could be reached (4 tried): * pillion-flags=UF end`)
		})
	})
}

// To a service that is not watched yet: the RPC waits for it, within its deadline.
func TestFailoverToWhatIsNotKnownYet(t *testing.T) {
	const policies = `
- {name: elsewhere, service: greeter, load_balancing: {failover: [{service: first}, {service: last}]}}
- {name: patience, service: greeter, timeout: {default: 10s, idle: 3s}}
`
	t.Run("it comes", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := away(t, policies)
			first := r.router.others["first"]
			r.router.asked = map[string]bool{"first": true}
			f := r.net.Listen("f:1")
			r.Request(1, "/a.B/C", false)
			synctest.Wait()
			time.Sleep(4 * time.Second)
			r.Message(1, 10, false)
			quiet(t, f)
			r.router.reveal("first", first)
			in := f.Conn()
			in.Want("HEADERS 1 :path=/a.B/C grpc-timeout=6005000u", "DATA 1 15")
			time.Sleep(3 * time.Second) // the idle time is still looked at
			in.Want("RST_STREAM 1 CANCEL")
			r.Want("HEADERS 1 :status=200 grpc-status=14 * pillion-flags=UT end", "RST_STREAM 1 NO_ERROR")
		})
	})
	t.Run("it is not there", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := away(t, policies)
			r.router.asked = map[string]bool{"first": true}
			l := r.net.Listen("l:1")
			r.Request(1, "/a.B/C", true)
			synctest.Wait()
			r.router.reveal("first", nil)
			l.Conn().Want("HEADERS 1 *")
			l.Conn().TrailersOnly(1, "0")
			r.Want(answered)
		})
	})
	t.Run("it takes too long", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := away(t, policies)
			r.router.asked = map[string]bool{"first": true}
			r.Request(1, "/a.B/C", true, "grpc-timeout", "1S")
			synctest.Wait()
			time.Sleep(time.Second)
			r.Want(`HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded while service "first", to which it fails over from service "greeter", was looked up pillion-flags=DT end`)
			r.router.reveal("first", nil) // nobody waits any more
		})
	})
	t.Run("too many wait already", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := away(t, policies)
			r.router.asked = map[string]bool{"first": true}
			r.router.full = true
			l := r.net.Listen("l:1")
			r.ask(l, 1, true).TrailersOnly(1, "0")
			r.Want(answered)
		})
	})
}

// A service that the registry does not know, or no longer, has no instances either.
func TestFailoverFromWhatIsGone(t *testing.T) {
	const policies = `
- {name: away, service: greeter, route: {rules: [{to: {service: gone}}]}}
- {name: elsewhere, service: gone, load_balancing: {failover: [{subset: v7}, {service: first}, {service: last}]}}
`
	for what, wait := range map[string]bool{"known at once": false, "looked up": true} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := away(t, policies)
				f, l := r.net.Listen("f:1"), r.net.Listen("l:1")
				if wait {
					first := r.router.others["first"]
					r.router.asked = map[string]bool{"first": true, "gone": true}
					r.Request(1, "/a.B/C", true)
					synctest.Wait()
					r.router.reveal("gone", nil)
					synctest.Wait()
					r.router.reveal("first", first)
				} else {
					r.Request(1, "/a.B/C", true)
				}
				_, in := request(t, f)
				in.TrailersOnly(1, "0")
				r.Want(answered)
				r.logged(map[string]any{"service": "first", "route": "away/1"})
				r.router.others["first"].Update([]registry.Endpoint{}, false)
				r.ask(l, 3, true).TrailersOnly(1, "0")
				r.Want("HEADERS 3 :status=200 grpc-status=0 end")
			})
		})
	}
}

// Beside the app, policies of those who call it mean nothing.
func TestInboundPolicies(t *testing.T) {
	const policies = `
- {name: elsewhere, service: greeter, load_balancing: {policy: ring_hash, hash: {metadata: user}, failover: [{service: first}]}}
- {name: theirs, service: greeter, rate_limit: {limits: [{requests: 1, interval: 1h}]}}
- {name: ours, service: greeter, inbound: true, rate_limit: {limits: [{requests: 2, interval: 1h, key: {caller: true}}]}}
- {name: patience, service: greeter, inbound: true, timeout: {default: 2s}}
- {name: places, service: greeter, inbound: true, circuit_breaker: {max_concurrent: 1}}
- {name: broken, service: greeter, inbound: true, fault: {abort: {status: {code: ABORTED}, fraction: 10000}, match: {metadata: [{key: abort, present: true}]}}}
`
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Random: even, Shield: true}})
		r.service("first", "f:1")
		r.obey(policies)
		a, f := r.net.Listen("a:1"), r.net.Listen("f:1")
		in := r.ask(a, 1, true)
		r.Request(3, "/a.B/C", true)
		r.Want(`HEADERS 3 :status=200 grpc-status=14 grpc-message=policy "places": circuit breaker of greeter a.B/C: 1 RPCs * pillion-flags=UO end`)
		time.Sleep(2 * time.Second)
		r.Want("HEADERS 1 :status=200 grpc-status=4 * pillion-flags=DT end")
		in.Want("RST_STREAM 1 CANCEL")
		r.Request(5, "/a.B/C", true)
		r.Want(`HEADERS 5 :status=200 grpc-status=8 grpc-message=rate limited: policy "ours", limit 1: there is room again in 29m58s pillion-flags=RL * end`)
		r.Request(7, "/a.B/C", true, "abort", "1")
		r.Want(`HEADERS 7 :status=200 grpc-status=10 * pillion-flags=FI end`)
		quiet(t, a, f)
	})
	t.Run("an app that is away is not somewhere else", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Random: even}})
			r.service("first", "f:1")
			r.obey(policies)
			f := r.net.Listen("f:1")
			r.Request(1, "/a.B/C", true)
			r.Want("HEADERS 1 :status=200 grpc-status=14 * pillion-flags=UF end")
			if len(f.Conns()) > 0 {
				t.Error("it was sent elsewhere")
			}
		})
	})
}
