package soak

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// part is something that goes on all the time, together with all the others.
type part struct {
	name string
	run  func(*acting)
}

// parts are all of them.
var parts = []part{
	{"steady", callSteadily},
	{"comers", callAndLeave},
	{"disturbed", callTheDisturbed},
	{"cancels", cancelRPCs},
	{"deadlines", missDeadlines},
	{"slow", readSlowly},
	{"idle", keepIdleStreams},
	{"reflection", askReflection},
	{"instances", churnInstances},
	{"registry", churnRegistry},
	{"consul", churnConsul},
	{"faults", spoilInstances},
	{"callers", spoilCallers},
	{"attacks", attackPorts},
	{"slow-attacks", attackPortsSlowly},
	{"hostile", callHostileInstances},
	{"bursts", callTooMuch},
	{"admin", scrape},
	{"rotation", rotateLogs},
}

// acting is a part while it plays.
type acting struct {
	*rig
	*rand.Rand

	// ctx ends when the part has to.
	ctx context.Context //nolint:containedctx // it is the life of the part
	// s ends with the part.
	s *scope
}

// play plays all parts until ctx ends, and returns when all they did is over.
func (r *rig) play(ctx context.Context, phase string) {
	var chosen []string
	if *only != "" {
		chosen = strings.Split(*only, ",")
	}
	var playing sync.WaitGroup
	for _, p := range parts {
		if chosen != nil && !slices.Contains(chosen, p.name) {
			continue
		}
		playing.Go(func() {
			a := &acting{rig: r, Rand: r.random(phase + p.name), ctx: ctx, s: newScope(r.t)}
			defer r.eventf("%s: over", p.name)
			defer a.s.end()
			p.run(a)
		})
	}
	playing.Wait()
}

// pause waits for a time between least and most, and says whether to go on.
func (a *acting) pause(least, most time.Duration) bool {
	wait := least
	if most > least {
		wait += a.duration(most - least)
	}
	select {
	case <-time.After(wait):
		return a.ctx.Err() == nil
	case <-a.ctx.Done():
		return false
	}
}

// duration is a random one below most.
func (a *acting) duration(most time.Duration) time.Duration {
	return time.Duration(a.Int64N(int64(most)))
}
