// Package demo shows a whole mesh on one machine: two versions of an app with a
// sidecar beside each, a client with its own, real load, and an instance that
// goes away and comes back meanwhile. All of them are processes of their own, as
// they would be in earnest; only Consul is replaced by a file.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options say how the demo runs.
type Options struct {
	// Executable is the pillion binary, which the demo starts again and again.
	Executable string
	// Out is where the demo shows what happens.
	Out io.Writer
	// Live redraws one picture; otherwise a line is written every second.
	Live bool
	// Duration is how long the load goes on. At least 3 s.
	Duration time.Duration
	// Rate is how many RPCs are started per second.
	Rate int
	// Serve keeps everything up afterwards, until ctx ends.
	Serve bool
	// Outbound and Admin are where the client's sidecar listens.
	Outbound, Admin string
}

// ErrFailedRPCs says that the demo did not keep its promise.
var ErrFailedRPCs = errors.New("some RPCs failed")

// Run runs the demo until it is over or ctx ends. It returns ErrFailedRPCs where
// an RPC failed.
func Run(ctx context.Context, o Options) error {
	dir, err := os.MkdirTemp("", "pillion-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer os.RemoveAll(dir)

	fmt.Fprintln(o.Out, "Starting greeter v1 and v2, a sidecar beside each, and a sidecar for a client…")
	fleet, err := startFleet(ctx, o, dir)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer fleet.stop()
	fmt.Fprintf(o.Out, "The client dials %s and calls /helloworld.Greeter/SayHello; it knows nothing else.\n\n", fleet.outbound)

	total, err := show(ctx, o, fleet)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	summarize(o.Out, total, fleet.retries(ctx))
	if o.Serve && ctx.Err() == nil {
		fmt.Fprintf(o.Out, serveHelp, fleet.outbound, fleet.admin)
		<-ctx.Done()
	}
	if total.failed > 0 {
		return ErrFailedRPCs
	}
	return nil
}

const serveHelp = `
It stays up until you press Ctrl-C. Try, in another terminal:

  grpcurl -plaintext %[1]s list
  grpcurl -plaintext %[1]s describe helloworld.Greeter
  grpcurl -plaintext -d '{"name": "you"}' %[1]s helloworld.Greeter/SayHello
  curl -s http://%[2]s/endpoints
  curl -s http://%[2]s/metrics | grep pillion_
`

// show runs the load, and the play beside it: at a third of the time greeter v2
// is ended, at two thirds it comes back.
func show(ctx context.Context, o Options, f *fleet) (totals, error) {
	duration := max(o.Duration, 3*time.Second)
	load, err := startLoad(f.outbound, o.Rate)
	if err != nil {
		return totals{}, err
	}
	defer load.stop()

	screen := newScreen(o.Out, o.Live)
	start := time.Now()
	acts := []struct {
		at   time.Duration
		what string
		do   func() error
	}{
		{duration / 3, "greeter v2 is ended; its sidecar stays", f.apps[1].end},
		{duration * 2 / 3, "greeter v2 is back", func() error { return f.restartApp(ctx, 1) }},
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Since(start) < duration {
		select {
		case <-ctx.Done():
			return load.total(), nil
		case <-tick.C:
		}
		for len(acts) > 0 && time.Since(start) >= acts[0].at {
			screen.event(acts[0].what)
			if err := acts[0].do(); err != nil {
				return load.total(), err
			}
			acts = acts[1:]
		}
		screen.second(time.Since(start), load.second())
	}
	load.stop()
	return load.total(), nil
}
