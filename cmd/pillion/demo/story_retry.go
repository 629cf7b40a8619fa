package demo

import (
	"context"
	"fmt"
)

// retryStory shows that retries hide an instance that is unwell, and that their budget
// keeps them from making a bad day worse.
var retryStory = scenario{
	short:    "retries: switched on while one of three instances fails 30 % of its RPCs; then all fail",
	opening:  "Starting greeters a, b and c, a sidecar beside each, and a sidecar for a client…",
	greeters: []string{"a", "b", "c"},
	clients:  1,
	duration: storyDuration,
	rate:     500,
	arrivals: true,
	policies: func(pace) string { return "" },
	acts: []act{
		{0.15, "greeter b fails 30 % of its RPCs, behind headers, in the trailers", func(ctx context.Context, s *stage) error {
			s.mark(ctx, retrySick)
			return s.fleet.tell(ctx, 1, behaviour{fails: 0.3})
		}},
		{0.35, "mesh.yaml is edited: a retry policy, at most 3 attempts", func(ctx context.Context, s *stage) error {
			s.mark(ctx, retryEdited)
			return s.edit(ctx, retryPolicies)
		}},
		{0.4, "", func(ctx context.Context, s *stage) error {
			s.mark(ctx, retryOn)
			return nil
		}},
		{0.65, "all greeters fail all RPCs: a third attempt would be thrice the load", func(ctx context.Context, s *stage) error {
			s.mark(ctx, retryDown)
			return s.fleet.tellAll(ctx, behaviour{fails: 1})
		}},
		{0.9, "all greeters are well", func(ctx context.Context, s *stage) error {
			s.mark(ctx, retryWell)
			return s.fleet.tellAll(ctx, behaviour{})
		}},
	},
	note: func(s *stage) string {
		total := s.load.total()
		retries := int(sumOf(s.clients, "pillion_retries_total", labels{"kind": "retry"}))
		refused := int(sumOf(s.clients, "pillion_retries_refused_total", labels{"reason": "budget"}))
		return fmt.Sprintf("%d retries for %d RPCs so far; the budget refused %d", retries, total.ok+total.failed, refused)
	},
	verdict: func(s *stage) []finding {
		before, after, down := s.between(retrySick, retryEdited), s.between(retryOn, retryDown), s.between(retryDown, retryWell)
		whole := s.between(retryEdited, end)
		seconds := s.marks[end].at.Sub(s.marks[retryEdited].at).Seconds()
		allowed := 0.2*float64(whole.rpcs()) + 3*(seconds+10) // the budget remembers 10 s
		return []finding{
			{before.failing() > 3, fmt.Sprintf("without the policy %.1f %% of the RPCs failed", before.failing())},
			{after.failing() < 1.5, fmt.Sprintf("with it %.1f %% of the RPCs failed, and %.1f %% more attempts were made", after.failing(), percent(int(after.retries), after.rpcs()))},
			{down.failing() > 50, fmt.Sprintf("while all instances failed, so did %.0f %% of the RPCs", down.failing())},
			{whole.retries <= allowed, fmt.Sprintf("the budget held: %.0f retries for %d RPCs in all, %.0f would have been allowed", whole.retries, whole.rpcs(), allowed)},
		}
	},
}

// The marks of this story.
const (
	retrySick   = "sick"
	retryEdited = "edited"
	retryOn     = "on"
	retryDown   = "down"
	retryWell   = "well"
)

const retryPolicies = `policies:
- name: greeter-retry
  service: greeter
  methods: [helloworld.Greeter/SayHello]
  retry:
    max_attempts: 3
    retryable_status_codes: [UNAVAILABLE]
    hold_headers: true
    budget: {ratio: 0.2, min_per_second: 3}
`
