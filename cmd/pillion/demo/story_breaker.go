package demo

import (
	"context"
	"fmt"
)

// breakerStory shows that a breaker takes the load off a service that fails as a
// whole, and gives it back when that is well.
var breakerStory = scenario{
	short:    "a circuit breaker: all instances fail, it opens, they get probes alone, it closes",
	opening:  "Starting greeters a, b and c, a sidecar beside each, and a sidecar for a client…",
	greeters: []string{"a", "b", "c"},
	clients:  1,
	duration: storyDuration,
	rate:     500,
	arrivals: true,
	policies: func(p pace) string {
		return fmt.Sprintf(`policies:
- name: greeter-breaker
  service: greeter
  circuit_breaker:
    trip: {failure_ratio: 0.5, min_volume: 20, window: %s, open_for: %s, max_open_for: %s, probes: 3}
`, p.of(4), p.of(4), p.of(8))
	},
	acts: []act{
		{0.15, "all greeters fail all RPCs", func(ctx context.Context, s *stage) error {
			s.mark(ctx, breakerSick)
			return s.fleet.tellAll(ctx, behaviour{fails: 1})
		}},
		{0.35, "", func(ctx context.Context, s *stage) error {
			s.mark(ctx, breakerOpen)
			return nil
		}},
		{0.6, "all greeters are well", func(ctx context.Context, s *stage) error {
			s.mark(ctx, breakerWell)
			return s.fleet.tellAll(ctx, behaviour{})
		}},
		{0.85, "", func(ctx context.Context, s *stage) error {
			s.mark(ctx, breakerClosed)
			return nil
		}},
	},
	note: func(s *stage) string {
		refused := int(sumOf(s.clients, "pillion_rpc_failures_total", labels{"flag": "UO"}))
		state := [...]string{"closed", "half-open", "open"}[min(2, int(sumOf(s.clients, "pillion_circuit_breaker_state", nil)))]
		return fmt.Sprintf("the breaker is %s; it has refused %d RPCs so far (UO)", state, refused)
	},
	verdict: func(s *stage) []finding {
		open, closed := s.between(breakerOpen, breakerWell), s.between(breakerClosed, end)
		arrived := 0
		for _, n := range open.arrived {
			arrived += n
		}
		return []finding{
			{float64(arrived) < 0.1*float64(open.rpcs()), fmt.Sprintf("while it was open, %d of %d RPCs reached an instance: the probes", arrived, open.rpcs())},
			{closed.rpcs() > 0 && closed.failing() < 5, fmt.Sprintf("once the greeters were well it closed: then %.1f %% of %d RPCs failed", closed.failing(), closed.rpcs())},
		}
	},
}

// The marks of this story.
const (
	breakerSick   = "sick"
	breakerOpen   = "open"
	breakerWell   = "well"
	breakerClosed = "closed"
)
