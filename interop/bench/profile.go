package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// profileTime is how long a profile takes.
	profileTime = 4 * time.Second
	// profileLoad is how many times a profile's length the load should last, so
	// that it does not end before.
	profileLoad = 1.5
)

// profiles takes a CPU profile of a contestant under each load. It is not part
// of a round, since being profiled costs.
func (r *rig) profiles(ctx context.Context, c *contestant) error {
	if r.opts.has(partUnary) {
		for _, s := range r.opts.shapes {
			measured := r.results.of(r.setting.name, c.name, s.scene(), rpcPerSecond)
			requests := int(median(measured) * profileLoad * profileTime.Seconds())
			if err := r.profile(ctx, c, s.scene(), r.unary(c, s, requests, 0)); err != nil {
				return err
			}
		}
	}
	if r.opts.has(partStreaming) {
		perSecond := median(r.results.of(r.setting.name, c.name, sceneStreaming, bytesPerSecond))
		streams := int(perSecond * profileLoad * profileTime.Seconds() / float64(r.streamOrder().Bytes()))
		return r.profile(ctx, c, sceneStreaming, r.download(c, max(streams, 1)))
	}
	return nil
}

func (r *rig) profile(ctx context.Context, c *contestant, s scene, l load) error {
	path := fmt.Sprintf("%s-%s-%s.pprof", r.opts.profile, r.setting.name, s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loaded := make(chan error, 1)
	go func() {
		_, err := r.load.run(ctx, l)
		loaded <- err
	}()
	err := fetchProfile(ctx, c.site.admin, path, int(profileTime.Seconds()))
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-loaded); err != nil {
		return c.proc.failed("profile under %s: %w", s, err)
	}
	r.sayf("%s %s: profile in %s", r.setting.name, s, path)
	return nil
}
