// Package demo shows a whole mesh on one machine: versions of an app with a sidecar
// beside each, a client with its own, real load, and a story that is told meanwhile,
// such as that of an instance that goes away and comes back. All of them are processes
// of their own, as they would be in earnest; only Consul is replaced by a file. What
// is shown was measured: by the client, or by the sidecars' /metrics and logs.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	// Scenario is the name of the story that is told. Default: the plain one, of an
	// instance that goes away and comes back.
	Scenario string
	// Duration is how long the load goes on. At least 3 s, of a scenario 8 s.
	// Default: the story's own.
	Duration time.Duration
	// Rate is how many RPCs are started per second. Default: the story's own.
	Rate int
	// Serve keeps everything up afterwards, until ctx ends.
	Serve bool
	// Report is the file that an experiment's report is written to. Default: one in the
	// folder for temporary files, which stays there.
	Report string
	// Outbound and Admin are where the client's sidecar listens.
	Outbound, Admin string
}

// ErrFailedRPCs says that RPCs failed where none should have, and ErrNotSo that
// something else did not come as it should.
var (
	ErrFailedRPCs = errors.New("some RPCs failed")
	ErrNotSo      = errors.New("something did not come as it should")
)

// Run runs the demo until it is over or ctx ends.
func Run(ctx context.Context, o Options) error {
	story, err := scenarioOf(o.Scenario)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	o.Rate = cmp.Or(o.Rate, story.rate)
	o.Duration = max(cmp.Or(o.Duration, story.duration), 3*time.Second)
	if o.Scenario != plain {
		o.Duration = max(o.Duration, shortest)
	}
	dir, err := os.MkdirTemp("", "pillion-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer os.RemoveAll(dir)

	fmt.Fprintln(o.Out, story.opening)
	fleet, err := startFleet(ctx, o, dir, story)
	if err != nil && ctx.Err() != nil {
		return nil // somebody has ended it already
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer fleet.stop()
	fmt.Fprintf(o.Out, "The client dials %s and calls /helloworld.Greeter/SayHello; it knows nothing else.\n", fleet.clients[0].at["outbound"])
	if story.controlled {
		fmt.Fprintf(o.Out, controlHelp, fleet.folder(), fleet.clients[0].at["admin"])
	} else if o.Scenario != plain {
		fmt.Fprintf(o.Out, "The policies are in %s. What they make of an RPC, and why, says:\n\n  pillion explain greeter helloworld.Greeter/SayHello --admin %s\n",
			fleet.meshPath(), fleet.clients[0].at["admin"])
	}
	fmt.Fprintln(o.Out)

	total, findings, err := show(ctx, o, story, fleet)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	whole := ctx.Err() == nil
	if !whole {
		findings = nil // the story has no end
	}
	var callers []string
	if !story.controlled { // sidecars that report would be among them
		callers = fleet.whoCalls(ctx)
	}
	summarize(o.Out, total, fleet.names, fleet.sentElsewhere(ctx), callers, findings)
	if o.Serve && whole {
		fmt.Fprintf(o.Out, serveHelp, fleet.clients[0].at["outbound"], fleet.clients[0].at["admin"])
		<-ctx.Done()
	}
	switch {
	case total.failed > 0 && o.Scenario == plain:
		return ErrFailedRPCs
	case slices.ContainsFunc(findings, func(f finding) bool { return !f.kept }):
		return ErrNotSo
	}
	return nil
}

const controlHelp = `The commands below are those that a person would type, after:

  export PILLION_CONTROL=%s PILLION_ADMIN=%s
`

const serveHelp = `
It stays up until you press Ctrl-C. Try, in another terminal:

  grpcurl -plaintext %[1]s list
  grpcurl -plaintext %[1]s describe helloworld.Greeter
  grpcurl -plaintext -d '{"name": "you"}' %[1]s helloworld.Greeter/SayHello
  curl -s http://%[2]s/endpoints
  curl -s http://%[2]s/metrics | grep pillion_
`

// show runs the load, and the story beside it.
func show(ctx context.Context, o Options, story *scenario, f *fleet) (totals, []finding, error) {
	targets := make([]string, len(f.clients))
	for i, c := range f.clients {
		targets[i] = c.at["outbound"]
	}
	s := &stage{
		options: o, scenario: story, fleet: f, screen: newScreen(o.Out, o.Live, f.names), pace: pace(o.Duration),
		seconds: make(chan time.Time), marks: map[string]mark{}, moves: map[string]moves{},
	}
	if story.prepare != nil {
		if err := story.prepare(ctx, s); err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return totals{}, nil, err
		}
	}
	load, err := startLoad(targets, o.Rate, story.users)
	if err != nil {
		return totals{}, nil, err
	}
	defer load.stop()
	s.load = load
	if err := s.tell(ctx); err != nil {
		return load.total(), nil, err
	}
	load.stop()
	s.mark(ctx, end)
	return load.total(), story.verdict(s), nil
}
