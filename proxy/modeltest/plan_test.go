package modeltest

import (
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// horizon is when the last RPC begins.
const horizon = 10 * time.Second

// plan is what a seed decides.
type plan struct {
	seed      uint64
	clients   int
	instances int
	sidecars  bool // each instance is an app behind an inbound proxy
	policy    balance.Policy
	http2     h2.Config
	budget    int64
	upstream  upstream.Options
	retry     relay.Retry
	shutdown  time.Duration // when the outbound side is shut down; 0: at the end
	rpcs      []*rpc
	faults    []*fault

	latency time.Duration
	slowNet bool
}

// rng returns the source of randomness of one thing.
func rng(seed uint64, what string, n int) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what))
	return rand.New(rand.NewPCG(seed, h.Sum64()+uint64(n)*0x9e3779b97f4a7c15))
}

// chance is true in one of n cases.
func chance(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// oneOf picks one.
func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// between picks a duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

func newPlan(seed uint64, o options) *plan {
	r := rng(seed, "plan", 0)
	p := &plan{
		seed: seed, clients: 1 + r.IntN(6), instances: 1 + r.IntN(5), sidecars: chance(r, 3),
		policy: oneOf(r, balance.RoundRobin, balance.LeastRequest, balance.PickFirst),
		http2: h2.Config{
			MaxConcurrentStreams: oneOf[uint32](r, 0, 0, 5, 100),
			InitialStreamWindow:  oneOf[uint32](r, 0, 0, 100_000),
			MaxStreamWindow:      1, // no growth
			ConnWindow:           oneOf[uint32](r, 0, 65535, 200_000),
			MaxOutput:            oneOf[uint32](r, 0, 0, 1000, 20_000),
			StallTimeout:         oneOf(r, 0, 5*time.Second),
			KeepaliveInterval:    oneOf(r, 0, 0, 2*time.Second),
		},
		budget: 256 << 20,
		upstream: upstream.Options{
			ConnectTimeout: oneOf(r, 0, time.Second),
			IdleTimeout:    oneOf(r, 0, 50*time.Millisecond, time.Second),
			MaxAge:         oneOf(r, 0, 0, time.Second),
			MaxConns:       oneOf(r, 0, 1, 3),
			BackoffMax:     oneOf(r, 0, 100*time.Millisecond),
		},
		retry:   relay.Retry{MaxAttempts: oneOf(r, 0, 0, 1, 5), ReplayBytes: oneOf(r, 0, 0, 1000, 1<<20)},
		latency: oneOf(r, 0, 100*time.Microsecond, 2*time.Millisecond, 20*time.Millisecond),
		slowNet: chance(r, 6),
	}
	if chance(r, 4) {
		p.http2.MaxStreamWindow = 0 // windows grow
	}
	if chance(r, 8) {
		p.budget = 100_000
	}
	if chance(r, 10) {
		p.upstream.MaxWaiting = 5
	}
	if chance(r, 6) {
		p.shutdown = between(r, horizon/4, horizon)
	}
	p.http2 = p.http2.WithDefaults()
	n := 100 + r.IntN(400)
	for id := range n {
		p.rpcs = append(p.rpcs, newRPC(p, id))
	}
	if !chance(r, 5) {
		for i := range 1 + r.IntN(20) {
			p.faults = append(p.faults, newFault(p, i))
		}
	}
	p.leaveOut(o)
	return p
}

// steady says that the windows that the engine gives do not grow, so that they
// can be checked to the byte.
func (p *plan) steady() bool { return p.http2.MaxStreamWindow == p.http2.InitialStreamWindow }

// connWindow is the engine's window of a connection.
func (p *plan) connWindow() int64 { return int64(p.http2.ConnWindow) }

// scarce says that memory runs out.
func (p *plan) scarce() bool { return p.budget < 1<<20 }

// link returns how a connection behaves.
func (p *plan) link(r *rand.Rand) linkStyle {
	s := linkStyle{rng: r, room: oneOf(r, 1<<20, 64<<10, 3000)}
	if p.latency > 0 {
		s.least, s.spread = p.latency/2, p.latency
	}
	if p.slowNet {
		s.rate = oneOf(r, 0, 300_000, 5_000_000)
		s.most, s.slow = oneOf(r, 0, 1, 7), 3000
	}
	return s
}

// style returns how an endpoint behaves.
func (p *plan) style(r *rand.Rand) endStyle {
	s := endStyle{
		window:     oneOf[int64](r, 65535, 65535, 1000, 20_000, 1<<20),
		connWindow: oneOf[int64](r, 65535, 65535, 1<<20),
		chunk:      oneOf(r, 16384, 16384, 1000, 100),
		eager:      chance(r, 2),
		limit:      oneOf[uint32](r, 100, 1000, 3),
		table:      4096,
	}
	if chance(r, 4) {
		s.padding = 0.3
	}
	return s
}
