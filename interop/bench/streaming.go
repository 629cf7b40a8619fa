package main

import (
	"context"
	"fmt"

	"github.com/pillion-proxy/pillion/interop/bench/canned"
)

// streamShape is how many downloads run at a time.
var streamShape = shape{conns: 4, streams: 2}

const (
	// streamMessages is how many messages each download has (64 MiB).
	streamMessages = 4096
	// quickMessages is the same in a smoke test.
	quickMessages = 64
	gib           = 1 << 30
)

func (r *rig) streamOrder() canned.Order {
	if r.opts.quick {
		return canned.Order{Messages: quickMessages, Size: streamSize}
	}
	return canned.Order{Messages: streamMessages, Size: streamSize}
}

func (r *rig) download(c *contestant, streams int) load {
	return load{
		addr: c.site.listen, shape: streamShape, body: r.body(streamBody), path: c.path, authority: c.authority,
		requests: streams, answer: r.streamOrder().Bytes(), streaming: true, core: r.where.load,
	}
}

// streamingRound measures each proxy once.
func (r *rig) streamingRound(ctx context.Context, round int) error {
	for _, c := range r.turn(round) {
		if err := r.insist(c, sceneStreaming, func() error { return r.stream(ctx, c) }); err != nil {
			return err
		}
	}
	return nil
}

// stream measures how fast a proxy carries streams of 16 KiB messages to the
// client, and what that costs.
func (r *rig) stream(ctx context.Context, c *contestant) error {
	streams, err := r.streamsFor(ctx, c)
	if err != nil {
		return err
	}
	var result loadResult
	cpu, err := c.spent(func() (err error) {
		result, err = r.load.run(ctx, r.download(c, streams))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", sceneStreaming, err)
	}
	perSecond := float64(result.data) / result.elapsed.Seconds()
	perGiB := cpu.Seconds() / float64(result.data) * gib
	r.add(c, sceneStreaming, bytesPerSecond, perSecond)
	r.add(c, sceneStreaming, cpuPerGiB, perGiB)
	r.sayf("%s %s %s: %.0f MB/s, %.2f s CPU per GiB", r.setting.name, sceneStreaming, c.name, perSecond/megabyte, perGiB)
	return nil
}

// streamsFor finds how many downloads take a run's time: as many whole sets as
// run at a time.
func (r *rig) streamsFor(ctx context.Context, c *contestant) (int, error) {
	if c.streams > 0 {
		return c.streams, nil
	}
	atATime := streamShape.conns * streamShape.streams
	result, err := r.load.run(ctx, r.download(c, atATime))
	if err != nil {
		return 0, c.proc.failed("%s: warming up: %w", sceneStreaming, err)
	}
	c.streams = max(1, int(r.opts.runTime/result.elapsed)) * atATime
	return c.streams, nil
}
