package main

import (
	"context"
	"fmt"
	"math"
	"time"
)

const (
	// openStreams is the bound on streams per connection of a load with a
	// rate: so many that slow answers do not hold requests up.
	openStreams = 100
	// warmRequests is how many requests tell how fast a proxy is.
	warmRequests = 10_000
)

// unary is a load of unary RPCs.
func (r *rig) unary(c *contestant, s shape, requests int, rate float64) load {
	if rate > 0 {
		s.streams = openStreams
	}
	return load{
		addr: c.site.listen, shape: s, body: r.body(unaryBody), path: c.path, authority: c.authority, more: c.more, headers: c.headers,
		requests: max(requests, s.conns), rate: rate, answer: unaryAnswer, core: r.where.load,
	}
}

// unaryRound measures each proxy once in each shape: what an RPC costs at full
// load, then how long RPCs take at half.
func (r *rig) unaryRound(ctx context.Context, round int) error {
	for _, s := range r.opts.shapes {
		reached := map[*contestant]float64{}
		for _, c := range r.turn(round) {
			err := r.insist(c, s.scene(), func() (err error) {
				reached[c], err = r.fullLoad(ctx, c, s)
				return err
			})
			if err != nil {
				return err
			}
		}
		slowest := math.Inf(1)
		for _, rps := range reached {
			slowest = min(slowest, rps)
		}
		for _, c := range r.turn(round) {
			err := r.insist(c, s.scene(), func() error { return r.halfLoad(ctx, c, s, reached[c]/2, ownP50, ownP99) })
			if err != nil {
				return err
			}
		}
		for _, c := range r.turn(round) {
			err := r.insist(c, s.scene(), func() error { return r.halfLoad(ctx, c, s, slowest/2, sameP50, sameP99) })
			if err != nil {
				return err
			}
			r.add(c, s.scene(), sameRate, slowest/2)
		}
	}
	return nil
}

// fullLoad measures CPU per RPC and throughput, with every stream always in
// use. It returns the RPCs per second.
func (r *rig) fullLoad(ctx context.Context, c *contestant, s shape) (float64, error) {
	requests, err := r.requestsFor(ctx, c, s)
	if err != nil {
		return 0, err
	}
	l := r.unary(c, s, requests, 0)
	var result loadResult
	cpu, err := c.spent(func() (err error) {
		result, err = r.load.run(ctx, l)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s, err)
	}
	perRPC := float64(cpu.Microseconds()) / float64(l.requests)
	r.add(c, s.scene(), cpuPerRPC, perRPC)
	r.add(c, s.scene(), rpcPerSecond, result.requestsPerSecond)
	r.sayf("%s %s %s: %.2f µs CPU per RPC, %.0f RPC/s", r.setting.name, s, c.name, perRPC, result.requestsPerSecond)
	return result.requestsPerSecond, nil
}

// requestsFor warms the proxy up, and finds how many requests take a run's
// time.
func (r *rig) requestsFor(ctx context.Context, c *contestant, s shape) (int, error) {
	if n := c.requests[s]; n > 0 {
		return n, nil
	}
	n := r.opts.requests
	warm := warmRequests
	if n > 0 {
		warm = min(warm, n)
	}
	result, err := r.load.run(ctx, r.unary(c, s, max(warm, s.conns*s.streams), 0))
	if err != nil {
		return 0, c.proc.failed("%s: warming up: %w", s, err)
	}
	if n == 0 {
		n = int(result.requestsPerSecond * r.opts.runTime.Seconds())
	}
	c.requests[s] = max(n, s.conns*s.streams)
	return c.requests[s], nil
}

// halfLoad measures latencies with requests that begin at a rate, whatever
// became of those before.
func (r *rig) halfLoad(ctx context.Context, c *contestant, s shape, rate float64, p50, p99 metric) error {
	result, err := r.load.run(ctx, r.unary(c, s, int(rate*r.rateTime().Seconds()), rate))
	if err != nil {
		return c.proc.failed("%s at %.0f RPC/s: %w", s, rate, err)
	}
	r.add(c, s.scene(), p50, float64(percentile(result.latencies, 50)))
	r.add(c, s.scene(), p99, float64(percentile(result.latencies, 99)))
	return nil
}

// rateTime is how long a load with a rate takes.
func (r *rig) rateTime() time.Duration { return r.opts.runTime / 2 }
