package main

import (
	"context"
	"errors"
	"time"
)

const (
	// bulkPace is what each paced bulk stream carries, in bytes per second:
	// 100 MB/s in all. It is the same work for every proxy; without it the one
	// that carries most leaves least of the load's core to the unary RPCs.
	bulkPace = 12_500_000
	// besideRate is how many unary RPCs per second run beside the bulk.
	besideRate = 2000
	// bulkLead is how long the bulk runs before the unary RPCs begin, and after
	// they should have ended.
	bulkLead = 300 * time.Millisecond
)

var (
	bulkShape   = streamShape
	besideShape = shape{conns: 8, streams: openStreams}
)

// bulkRound measures how long unary RPCs take on connections of their own
// while other connections of the same proxy carry endless streams.
func (r *rig) bulkRound(ctx context.Context, round int) error {
	for _, bulk := range []struct {
		scene scene
		body  string
	}{{sceneBulkPaced, bulkPacedBody}, {sceneBulkFull, bulkFullBody}} {
		for _, c := range r.turn(round) {
			err := r.insist(c, bulk.scene, func() error { return r.unaryBesideBulk(ctx, c, bulk.scene, r.body(bulk.body)) })
			if err != nil {
				return c.proc.failed("unary RPCs beside %s: %w", bulk.scene, err)
			}
		}
	}
	return nil
}

func (r *rig) unaryBesideBulk(ctx context.Context, c *contestant, s scene, body string) error {
	bulk := load{
		addr: c.site.listen, shape: bulkShape, body: body, path: c.path, authority: c.authority,
		duration: r.opts.runTime + 2*bulkLead, streaming: true, core: r.where.load,
		// The load's core is full: what waits for it would be measured as the
		// proxy's.
		background: true,
	}
	// A failure of either ends the other.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var carried loadResult
	done := make(chan error, 1)
	go func() {
		var err error
		if carried, err = r.load.run(ctx, bulk); err != nil {
			cancel(err)
		}
		done <- err
	}()
	select {
	case <-time.After(bulkLead):
	case <-ctx.Done():
	}
	beside := r.unary(c, besideShape, int(besideRate*r.opts.runTime.Seconds()), besideRate)
	result, err := r.load.run(ctx, beside)
	if err != nil {
		cancel(err)
	}
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	p50, p99 := percentile(result.latencies, 50), percentile(result.latencies, 99)
	r.add(c, s, sameP50, float64(p50))
	r.add(c, s, sameP99, float64(p99))
	r.add(c, s, bytesPerSecond, float64(carried.data)/carried.elapsed.Seconds())
	r.sayf("%s unary beside %s %s: p50 %d µs, p99 %d µs", r.setting.name, s, c.name, p50, p99)
	return nil
}
