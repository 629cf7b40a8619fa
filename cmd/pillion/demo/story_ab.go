package demo

import (
	"context"
	"fmt"
)

// abStory shows a sticky split: a canary gets a tenth of the users, then half of them,
// then a tenth again.
var abStory = scenario{
	short:    "a sticky split: 10 % of the users at a canary, then 50 %, then 10 % again",
	opening:  "Starting greeter v1 and v2, a sidecar beside each, and sidecars for two clients, who share 500 users…",
	greeters: []string{"v1", "v2"},
	clients:  2,
	users:    500,
	duration: storyDuration,
	rate:     500,
	policies: func(pace) string { return abPolicies(9000, 1000) },
	acts: []act{
		{0.3, "mesh.yaml is edited: 50 % for v2, the canary", func(ctx context.Context, s *stage) error {
			s.mark(ctx, abRaised)
			return s.edit(ctx, abPolicies(5000, 5000))
		}},
		{0.55, "mesh.yaml is edited: back to 10 %", func(ctx context.Context, s *stage) error {
			s.found(abMovesUp, "v1", "v2")
			return s.edit(ctx, abPolicies(9000, 1000))
		}},
	},
	note: func(s *stage) string {
		return fmt.Sprintf("users: %d at v1, %d at v2; moved v1→v2 %d, v2→v1 %d, for no reason %d",
			s.load.usersAt("v1"), s.load.usersAt("v2"), s.load.moves("v1", "v2"), s.load.moves("v2", "v1"), s.load.strayed())
	},
	verdict: func(s *stage) []finding {
		s.found(abMovesDown, "v1", "v2")
		up, down := s.moves[abMovesUp], s.moves[abMovesDown]
		failed := s.load.total().failed
		groups := func(name string) int {
			return int(sumOf(s.clients, "pillion_group_rpcs_total", labels{"policy": "greeter-canary", "group": name}))
		}
		return []finding{
			{failed == 0, fmt.Sprintf("no RPC failed while the policies were changed: %d did", failed)},
			{s.load.strayed() == 0, fmt.Sprintf("a user meets the same version through both sidecars: %d of %d met another for no reason", s.load.strayed(), s.users)},
			{up.there > 0 && up.back == 0, fmt.Sprintf("from 10 %% to 50 %%: %d users moved to the canary, %d left it", up.there, up.back)},
			{down.back > 0 && down.there == 0, fmt.Sprintf("back to 10 %%: %d users returned, %d moved to the canary", down.back, down.there)},
			{groups("stable") > 0 && groups("canary") > 0, fmt.Sprintf("the sidecars counted %d RPCs of the group stable, %d of canary (pillion_group_rpcs_total)", groups("stable"), groups("canary"))},
		}
	},
}

// The marks of this story.
const (
	abRaised    = "raised"
	abMovesUp   = "up"
	abMovesDown = "down"
)

func abPolicies(stable, canary int) string {
	return fmt.Sprintf(`policies:
- name: greeter-versions
  service: greeter
  subsets:
    subsets:
      v1: {meta: {version: v1}}
      v2: {meta: {version: v2}}
- name: greeter-canary
  service: greeter
  route:
    rules:
    - split:
        sticky: {key: {metadata: user-id}}
        destinations:
        - {group: stable, subset: v1, weight: %d}
        - {group: canary, subset: v2, weight: %d}
`, stable, canary)
}
