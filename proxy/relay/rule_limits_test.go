package relay

import (
	"testing"
	"time"
)

// Where RPCs to a subset fail over is the subset's to say, before the service's.
func TestASubsetsOwnFailover(t *testing.T) {
	const policies = `
- {name: versions, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}, failover: [{service: last}]}, v2: {meta: {version: v2}}}, default: v1}}
- {name: elsewhere, service: greeter, load_balancing: {failover: [{service: first}]}}
- {name: way, service: greeter, route: {rules: [{match: {metadata: [{key: to, exact: v2}]}, to: {subset: v2}}]}}
`
	for to, want := range map[string]string{"v1": "l:1", "v2": "f:1"} {
		t.Run(to, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := away(t, policies)
				r.net.Listen("f:1")
				r.net.Listen("l:1")
				host := r.net.Listen(want)
				r.Request(1, "/a.B/C", true, "to", to)
				in := host.Conn()
				in.Want("HEADERS 1 :path=/a.B/C end")
				in.TrailersOnly(1, "0")
				r.Want("HEADERS 1 :status=200 grpc-status=0 end")
			})
		})
	}
}

const ruleLimits = `
- name: way
  service: greeter
  route:
    rules:
    - {match: {path_regex: "/a[.]B/(C|D)"}, timeouts: {max: 2s}, retry: {max_attempts: 2, retryable_status_codes: [INTERNAL], initial_backoff: 1ms, max_backoff: 1ms}}
- {name: times, service: greeter, timeout: {default: 9s}}
`

// What a route's rule says of timeouts holds for its RPCs, before the policies of the
// service, and for no others.
func TestARulesOwnDeadline(t *testing.T) {
	for path, want := range map[string]time.Duration{"/a.B/C": 2 * time.Second, "/a.B/CC": 9 * time.Second} {
		t.Run(path, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Random: even}})
				r.obey(ruleLimits)
				r.net.Listen("a:1")
				r.Request(1, path, true)
				time.Sleep(want - 1)
				r.Want()
				time.Sleep(time.Nanosecond)
				r.Want("HEADERS 1 :status=200 grpc-status=4 * pillion-flags=DT end")
			})
		})
	}
}

func TestARulesOwnRetries(t *testing.T) {
	for path, again := range map[string]bool{"/a.B/D": true, "/a.B/DD": false} {
		t.Run(path, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{Config: Config{Random: even}})
				r.obey(ruleLimits)
				host := r.net.Listen("a:1")
				r.Request(1, path, true)
				in := host.Conn()
				in.Want("HEADERS 1 :path=" + path + " * end")
				in.TrailersOnly(1, "13")
				time.Sleep(10 * time.Millisecond)
				if again {
					in.Want("HEADERS 3 :path=" + path + " * grpc-previous-rpc-attempts=1 end")
					in.TrailersOnly(3, "13")
				}
				r.Want("HEADERS 1 :status=200 grpc-status=13 * end")
			})
		})
	}
}
