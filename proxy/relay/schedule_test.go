package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Policies that are put in force one after the other while RPCs are under way.
var everyKind = []string{`
- {name: versions, service: greeter, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}, fallback: any}}}}
- name: canary
  service: greeter
  route:
    rules:
    - match: {metadata: [{key: kind, exact: fixed}]}
      status: {code: ABORTED}
    - match: {metadata: [{key: kind, exact: other}]}
      to: {service: other}
      mirror: {to: {service: copies}, max_concurrent: 3, max_bytes: 60}
      response: {set: {x-set: ours}}
    - split: {destinations: [{weight: 5000, subset: v1}, {weight: 5000, subset: v2}], sticky: {key: {metadata: user}}}
      request: {add: {x-add: more}, remove: [user]}
      mirror: {to: {subset: v2}, fraction: 5000}
- {name: patience, service: greeter, timeout: {default: 300ms, per_attempt: 60ms, idle: 80ms, max_age: 250ms}}
- {name: places, service: greeter, circuit_breaker: {max_concurrent: 3, max_pending: 4, trip: {consecutive_failures: 4, open_for: 40ms}, per_instance: {consecutive_failures: 6, open_for: 30ms}}}
- {name: places-of-other, service: other, circuit_breaker: {max_concurrent: 1, max_pending: 1}}
- {name: limits, service: greeter, rate_limit: {limits: [{requests: 100, burst: 3, key: {metadata: user}}]}}
- {name: faults, service: greeter, fault: {delay: {for: 30ms, fraction: 4000}, abort: {status: {code: INTERNAL}, fraction: 500}, max_active: 3}}
- {name: again, service: greeter, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE, DEADLINE_EXCEEDED], conditions: [connect-failure, reset-before-headers], hold_headers: true, initial_backoff: 5ms}}
- {name: outliers, service: greeter, outlier_ejection: {interval: 100ms, consecutive_failures: 4, base_ejection_time: 50ms}}
- {name: balance, service: greeter, load_balancing: {policy: ring_hash, hash: {metadata: user}, failover: [{service: unknown}, {service: other}]}}
`, `
- {name: places, service: "*", circuit_breaker: {max_concurrent: 2, max_pending: 6}}
- {name: twice, service: greeter, hedging: {max_attempts: 3, hedging_delay: 10ms, non_fatal_status_codes: [UNAVAILABLE]}}
- {name: balance, service: greeter, load_balancing: {policy: least_request, failover: [{service: other}]}}
- {name: away, service: greeter, route: {rules: [{match: {fraction: 3000}, to: {service: other}, timeout: 100ms}, {mirror: {to: {service: copies}}}]}}
`, `
- {name: faults, service: greeter, fault: {delay: {for: 60ms, fraction: 10000}, max_active: 2}}
- {name: places, service: "*", circuit_breaker: {max_concurrent: 2, max_pending: 6}}
`}

// schedule is a random run of events.
type schedule struct {
	*rig
	*rand.Rand
	hosts   map[string]*scriptpeer.Host
	sets    []*policy.Set
	next    uint32
	open    []uint32 // RPCs that may still send
	ended   map[uint32]bool
	serving []served
	flags   map[string]int // of answers
	copied  int
}

// served is an RPC at an instance.
type served struct {
	peer     *scriptpeer.Peer
	id       uint32
	answered bool
}

func (s *schedule) step() {
	switch n := s.IntN(100); {
	case n < 35 && len(s.open) < 20:
		s.begin()
	case n < 45 && len(s.open) > 0:
		s.Message(s.take(&s.open, false), s.IntN(50), false)
	case n < 52 && len(s.open) > 0:
		s.Message(s.take(&s.open, true), s.IntN(50), true)
	case n < 57 && s.next > 1:
		if id := 1 + 2*s.Uint32N((s.next-1)/2); !s.ended[id] {
			s.Reset(id, http2.ErrCodeCancel)
			s.end(id)
		}
	case n < 90 && len(s.serving) > 0:
		s.react(s.IntN(len(s.serving)))
	case n < 92:
		s.sets = append(s.sets, s.obey(everyKind[s.IntN(len(everyKind))]))
	case n < 93:
		s.leave([]string{"a:1", "b:1", "o:1", "m:1"}[s.IntN(4)])
	default:
		time.Sleep(time.Duration(s.Int64N(int64(20 * time.Millisecond))))
	}
	s.look()
}

func (s *schedule) take(from *[]uint32, out bool) uint32 {
	i := s.IntN(len(*from))
	id := (*from)[i]
	if out {
		*from = slices.Delete(*from, i, i+1)
	}
	return id
}

func (s *schedule) begin() {
	id := s.next
	s.next += 2
	whole := s.IntN(3) > 0
	pairs := []string{"user", fmt.Sprint(s.IntN(5)), "kind", []string{"fixed", "other", "", "", "", ""}[s.IntN(6)]}
	if s.IntN(3) == 0 {
		pairs = append(pairs, "grpc-timeout", fmt.Sprintf("%dm", 1+s.IntN(300)))
	}
	s.Request(id, "/a.B/"+string("CDE"[s.IntN(3)]), whole, pairs...)
	if !whole {
		s.open = append(s.open, id)
	}
}

// leave has an instance go away, and come back.
func (s *schedule) leave(address string) {
	for _, p := range s.hosts[address].Conns() {
		s.serving = slices.DeleteFunc(s.serving, func(v served) bool { return v.peer == p })
		p.Close()
	}
	s.net.Remove(address)
	if s.IntN(3) > 0 {
		s.hosts[address] = s.net.Listen(address)
	}
}

// react has an instance do something with one of its RPCs.
func (s *schedule) react(i int) {
	v := &s.serving[i]
	status := []string{"0", "0", "0", "14", "13", "5"}[s.IntN(6)]
	switch n := s.IntN(10); {
	case n < 4 && !v.answered:
		v.peer.TrailersOnly(v.id, status)
	case n < 7 && !v.answered:
		v.peer.Response(v.id)
		v.answered = true
		return
	case n < 4:
		v.peer.Message(v.id, s.IntN(50), false)
		return
	case n < 8 && v.answered:
		v.peer.Trailers(v.id, status)
	default:
		v.peer.Reset(v.id, []http2.ErrCode{http2.ErrCodeRefusedStream, http2.ErrCodeInternal}[s.IntN(2)])
	}
	s.serving = slices.Delete(s.serving, i, i+1)
}

// look takes in what everybody got.
func (s *schedule) look() {
	for _, f := range s.Frames() {
		switch {
		case f.Type == http2.FrameGoAway:
			s.t.Fatalf("the caller got %v", f)
		case f.Stream > 0 && (f.End || f.Type == http2.FrameRSTStream):
			if f.End && s.ended[f.Stream] {
				s.t.Fatalf("RPC %d ended twice", f.Stream)
			}
			s.flags[f.Get(wire.HeaderFlags)]++
			s.end(f.Stream)
		}
	}
	for _, h := range s.hosts {
		for _, p := range h.Conns() {
			for _, f := range p.Frames() {
				switch f.Type {
				case http2.FrameHeaders:
					if f.Get(wire.HeaderMirror) != "" {
						s.copied++
					}
					s.serving = append(s.serving, served{peer: p, id: f.Stream})
				case http2.FrameRSTStream:
					s.serving = slices.DeleteFunc(s.serving, func(v served) bool { return v.peer == p && v.id == f.Stream })
				}
			}
		}
	}
}

func (s *schedule) end(id uint32) {
	s.ended[id] = true
	s.open = slices.DeleteFunc(s.open, func(open uint32) bool { return open == id })
}

// Whatever happens in whatever order, while policies change: each RPC ends once, and
// no place, fault, copy or wait is left of any.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, func(t *testing.T) { leaveNothing(t, seed) })
		})
	}
}

func leaveNothing(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	draws := rand.New(rand.NewPCG(seed, 2))
	draw := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return draws.Uint64()
	}
	s := &schedule{
		rig: newRig(t, options{instances: 2, Config: Config{Random: draw}}), Rand: random,
		hosts: map[string]*scriptpeer.Host{}, ended: map[uint32]bool{}, flags: map[string]int{}, next: 1,
	}
	s.versions(2)
	s.service("other", "o:1")
	s.service("copies", "m:1")
	for _, address := range []string{"a:1", "b:1", "o:1", "m:1"} {
		s.hosts[address] = s.net.Listen(address)
	}
	s.sets = append(s.sets, s.obey(everyKind[0]))
	for range 300 {
		s.step()
	}
	t.Logf("%d RPCs, %d copies; flags %v", s.next/2, s.copied, s.flags)
	for id := uint32(1); id < s.next; id += 2 {
		if !s.ended[id] {
			s.Reset(id, http2.ErrCodeCancel)
		}
	}
	time.Sleep(time.Minute) // copies may go on for a while
	synctest.Wait()
	now := time.Now()
	for _, set := range s.sets {
		for _, service := range []string{"greeter", "other"} {
			for _, path := range []string{"/a.B/C", "/a.B/D", "/a.B/E"} {
				m := set.Service(service).Outbound(path)
				if m == nil {
					continue
				}
				if m.Fault != nil {
					if n := m.Fault.Counts().Active; n != 0 {
						t.Errorf("%d RPCs are under a fault still", n)
					}
				}
				if m.Breaker != nil {
					for key, c := range m.Breaker.Circuits(now) {
						if c.UnderWay != 0 || c.Waiting != 0 {
							t.Errorf("%v: %+v", key, c)
						}
					}
				}
				for _, kind := range []string{"other", ""} {
					rpc := policy.RPC{Path: path, Fields: []hpack.Field{{Name: "kind", Value: kind}}, Random: func() uint64 { return 1<<64 - 1 }}
					if rule := m.Route.Decide(&rpc, service, nil).Rule; rule != nil && rule.Mirror != nil && rule.Mirror.Active() != 0 {
						t.Errorf("%d copies are under way still", rule.Mirror.Active())
					}
				}
			}
		}
	}
	for name, c := range s.router.others {
		if n := c.InFlight(); n != 0 {
			t.Errorf("%d RPCs are under way to %s", n, name)
		}
	}
}
