package demo

import (
	"context"
	"fmt"
	"time"
)

// outlierStory shows that one instance which does worse than the others is left alone,
// first for what it answers, then for how slowly.
var outlierStory = scenario{
	short:    "outlier ejection: one instance fails, is left alone, and returns; another becomes slow",
	opening:  "Starting greeters a, b and c, a sidecar beside each, and a sidecar for a client…",
	greeters: []string{"a", "b", "c"},
	clients:  1,
	duration: storyDuration,
	rate:     500,
	arrivals: true,
	policies: func(p pace) string {
		return fmt.Sprintf(`policies:
- name: greeter-ejection
  service: greeter
  outlier_ejection:
    interval: %s
    base_ejection_time: %s
    consecutive_failures: 5
    failure_percentage: {threshold: 30, request_volume: 5}
- name: greeter-slow
  service: greeter
  circuit_breaker:
    per_instance: {slow_call_ratio: 0.5, slow_call: 0.1s, window: %s, min_volume: 10, open_for: %s}
`, p.of(1), p.of(5), p.of(4), p.of(3))
	},
	acts: []act{
		{0.1, "greeter b fails half of its RPCs, behind headers, in the trailers", func(ctx context.Context, s *stage) error {
			s.mark(ctx, outlierSick)
			return s.fleet.tell(ctx, 1, behaviour{fails: 0.5})
		}},
		{0.35, "greeter b is well", func(ctx context.Context, s *stage) error {
			s.mark(ctx, outlierWell)
			return s.fleet.tell(ctx, 1, behaviour{})
		}},
		{0.55, "greeter c takes 200 ms for each RPC", func(ctx context.Context, s *stage) error {
			s.mark(ctx, outlierSlow)
			return s.fleet.tell(ctx, 2, behaviour{slow: 200 * time.Millisecond})
		}},
		{0.72, "greeter c is quick again", func(ctx context.Context, s *stage) error {
			s.mark(ctx, outlierQuick)
			return s.fleet.tell(ctx, 2, behaviour{})
		}},
	},
	note: func(s *stage) string {
		blocked := func(reason string) int {
			return int(sumOf(s.clients, "pillion_blocked_instances", labels{"reason": reason}))
		}
		return fmt.Sprintf("left alone now: %d for what they answer, %d for being slow", blocked("ejected"), blocked("broken"))
	},
	verdict: func(s *stage) []finding {
		ejections := int(sumOf(s.clients, "pillion_ejections_total", nil))
		openings := int(sumOf(s.clients, "pillion_instance_breaker_openings_total", nil))
		sick, later, slow := s.between(outlierSick, outlierWell), s.between(outlierSlow, end), s.between(outlierSlow, outlierQuick)
		return []finding{
			{ejections > 0, fmt.Sprintf("greeter b was ejected %d times (pillion_ejections_total)", ejections)},
			{sick.failing() < 50./3, fmt.Sprintf("while it failed half of its RPCs, %.1f %% of all failed; without the policy it would be 16.7 %%", sick.failing())},
			{later.arrived[1] > 0, fmt.Sprintf("it was used again once it was well: %d RPCs", later.arrived[1])},
			{openings > 0 && slow.arrived[2] < slow.arrived[0], fmt.Sprintf("while greeter c was slow it got %d RPCs, greeter a %d", slow.arrived[2], slow.arrived[0])},
		}
	},
}

// The marks of this story.
const (
	outlierSick  = "sick"
	outlierWell  = "well"
	outlierSlow  = "slow"
	outlierQuick = "quick"
)
