package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// canaryStory shows a release that is led to all users step by step, one that is bad and
// is taken back, and one that each sidecar leaves by itself while nobody decides.
var canaryStory = scenario{
	short:      "a good release goes to all users in three steps, a bad one is rolled back by itself",
	opening:    "Starting greeter v1, v2 and v3, a sidecar beside each, and sidecars for four clients, who share 1,000 users…",
	greeters:   []string{"v1", "v2", "v3"},
	clients:    4,
	users:      1000,
	duration:   storyDuration,
	rate:       500,
	policies:   func(pace) string { return "" },
	controlled: true,
	deciders:   []string{"v1"}, // which serves nobody any more when it is killed
	note: func(s *stage) string {
		if s.watched == "" {
			return ""
		}
		return s.evidence()
	},
	prepare: func(ctx context.Context, s *stage) error {
		if err := s.write("greeter-v2.yaml", s.pace.canary("greeter-v2", "v1", "v2")); err != nil {
			return err
		}
		return s.do(ctx, "apply", "-f", "greeter-v2.yaml", "-m", "version 2")
	},
	play: func(ctx context.Context, s *stage) error {
		store, err := s.fleet.store()
		if err != nil {
			return err
		}
		c := &canaryPlay{stage: s, store: store}
		for _, part := range []func(context.Context) error{c.good, c.bad, c.slow, c.alone} {
			if err := part(ctx); err != nil {
				return err
			}
		}
		return s.rest(ctx, time.Second)
	},
	verdict: func(s *stage) []finding { return s.findings },
}

// quick says whether a story is told so quickly that it has to be shortened.
func (p pace) quick() bool { return time.Duration(p) < 30*time.Second }

// canaryDocuments are a canary's, with the subsets that it needs.
func canaryDocuments(name, stable, canary string, hold []string, minRPCs int) string {
	return fmt.Sprintf(`policies:
- name: greeter-versions
  service: greeter
  subsets:
    default: v1
    subsets:
      v1: {meta: {version: v1}}
      v2: {meta: {version: v2}}
      v3: {meta: {version: v3}}
canaries:
- name: %s
  service: greeter
  stable: %s
  canary: %s
  steps:
  - {weight: 1000, hold: %s, min_rpcs: %d}    # a tenth of the users
  - {weight: 5000, hold: %s, min_rpcs: %d}    # half of them
  - {weight: 10000, hold: %s, min_rpcs: %d}   # all
  sticky: {metadata: %s}
  guards:
    errors: [{max: 0.02, against_stable: 1}]
    latency: [{percentile: 90, against_stable: 1.5, tolerance: 10ms}]
`, name, stable, canary, hold[0], minRPCs, hold[1], minRPCs, hold[2], minRPCs, userKey)
}

// canary is one in a story at this pace.
func (p pace) canary(name, stable, canary string) string {
	minRPCs := 100
	if p.quick() {
		minRPCs = 10
	}
	return canaryDocuments(name, stable, canary, []string{p.of(9), p.of(9), p.of(6)}, minRPCs)
}

// patience is how long the story waits for what has to come.
const patience = time.Minute

// canaryPlay is the story while it is told.
type canaryPlay struct {
	*stage
	store kv.Store
}

// good leads a release that is as it should be to all users.
func (c *canaryPlay) good(ctx context.Context) error {
	if err := c.rest(ctx, time.Second); err != nil {
		return err
	}
	c.load.forget()
	before := c.now(ctx)
	if err := c.do(ctx, "canary", "start", "greeter-v2", "-m", "the new greeting"); err != nil {
		return err
	}
	c.watched = "greeter-v2"
	if err := c.rest(ctx, time.Duration(c.pace)/12); err != nil {
		return err
	}
	if err := c.do(ctx, "status"); err != nil {
		return err
	}
	if err := c.reaches(ctx, "greeter-v2", controlv1.Phase_PHASE_PROMOTED); err != nil {
		return err
	}
	if err := c.rest(ctx, time.Second); err != nil {
		return err
	}
	c.watched = ""
	run, err := c.run(ctx, "greeter-v2")
	if err != nil {
		return err
	}
	now, seen := c.now(ctx), c.load.sighted()
	weights, changes := stepsOf(run)
	there, _ := seen.moved("v1", "v2", nil, 0)
	back, between := seen.moved("v2", "v1", changes, stepMoment)
	c.finds(strings.HasPrefix(weights, "10 %, 50 %, 100 %") && now.failed == before.failed,
		"v2 got %s of the users, and then all, in %.0f s; %d of %d RPCs failed",
		weights, run[len(run)-1].GetSince().AsTime().Sub(run[0].GetSince().AsTime()).Seconds(), now.failed-before.failed, now.rpcs()-before.rpcs())
	c.finds(there > 0 && back == 0, "%d users moved from v1 to v2, %d back (%d met both at the moment when a step began)", there-between, back, between)
	return nil
}

// stepMoment is how long sidecars may be in different steps, and more for a busy machine.
const stepMoment = 250 * time.Millisecond

// bad leads a release to users that fails RPCs.
func (c *canaryPlay) bad(ctx context.Context) error {
	fails, most := 0.1, 1.0
	if c.pace.quick() {
		fails, most = 0.5, 10
	}
	if err := c.fleet.tell(ctx, 2, behaviour{fails: fails}); err != nil {
		return err
	}
	c.screen.event(fmt.Sprintf("greeter v3 is released, and fails %.0f %% of its RPCs", 100*fails))
	if err := c.write("greeter-v3.yaml", c.pace.canary("greeter-v3", "v2", "v3")); err != nil {
		return err
	}
	c.load.forget()
	before := c.now(ctx)
	c.watched = "greeter-v3"
	if err := c.do(ctx, "canary", "start", "-f", "greeter-v3.yaml", "-m", "version 3"); err != nil {
		return err
	}
	if err := c.reaches(ctx, "greeter-v3", controlv1.Phase_PHASE_ROLLED_BACK); err != nil {
		return err
	}
	c.watched = ""
	if err := c.rest(ctx, 1500*time.Millisecond); err != nil {
		return err
	}
	if err := c.do(ctx, "canary", "history", "greeter-v3"); err != nil {
		return err
	}
	run, err := c.run(ctx, "greeter-v3")
	if err != nil {
		return err
	}
	now, seen := c.now(ctx), c.load.sighted()
	began, decided := run[0].GetSince().AsTime(), run[len(run)-1]
	tally, at := decided.GetTally(), decided.GetSince().AsTime()
	late, failed := seen.last["v3"].Sub(at), now.failed-before.failed
	c.finds(true, "v3 was rolled back %.2f s after it got its first users: %d of its %d RPCs had failed, counted by %d sidecars; the elected one, %s, decided",
		at.Sub(began).Seconds(), tally.GetCanaryFailures(), tally.GetCanaryRpcs(), tally.GetSidecars(), decided.GetBy())
	c.finds(true, "before that, %s", c.tripsTold(decided.GetName(), decided.GetRun(), began, at))
	c.finds(late < time.Second, "the last RPC that met v3 began %s", beforeOrAfter(late))
	c.finds(percent(failed, now.rpcs()-before.rpcs()) < most && !seen.failing.After(seen.last["v3"]),
		"%d of %d users saw an error, in %d of %d RPCs; afterwards none failed", len(seen.hurt), c.users, failed, now.rpcs()-before.rpcs())
	return nil
}

func beforeOrAfter(d time.Duration) string {
	if d < 0 {
		return fmt.Sprintf("%d ms before that", -d.Milliseconds())
	}
	return fmt.Sprintf("%d ms after that", d.Milliseconds())
}

// slowness is by how much longer a release takes that is only slower.
const slowness = 50 * time.Millisecond

// slow leads a release to users that is only slower.
func (c *canaryPlay) slow(ctx context.Context) error {
	if c.pace.quick() {
		return nil // it needs more RPCs than there are then
	}
	if err := c.fleet.tell(ctx, 2, behaviour{slow: slowness}); err != nil {
		return err
	}
	c.screen.event(fmt.Sprintf("greeter v3 is mended, but takes %v for each RPC", slowness))
	before := c.now(ctx)
	c.watched = "greeter-v3"
	if err := c.do(ctx, "canary", "start", "greeter-v3", "-m", "version 3, mended"); err != nil {
		return err
	}
	if err := c.reaches(ctx, "greeter-v3", controlv1.Phase_PHASE_ROLLED_BACK); err != nil {
		return err
	}
	c.watched = ""
	if err := c.rest(ctx, time.Second); err != nil {
		return err
	}
	run, err := c.run(ctx, "greeter-v3")
	if err != nil {
		return err
	}
	now, decided := c.now(ctx), run[len(run)-1]
	c.finds(strings.HasPrefix(decided.GetReason(), "latency") && now.failed == before.failed,
		"v3, which was only slower, was rolled back after %.2f s and %d of its RPCs; %d RPCs failed: %s",
		decided.GetSince().AsTime().Sub(run[0].GetSince().AsTime()).Seconds(), decided.GetTally().GetCanaryRpcs(), now.failed-before.failed, decided.GetReason())
	return nil
}

// alone has a release become bad while nobody is there who decides for all.
func (c *canaryPlay) alone(ctx context.Context) error {
	if err := c.fleet.tell(ctx, 2, behaviour{}); err != nil {
		return err
	}
	c.screen.event("greeter v3 is mended")
	if err := c.do(ctx, "canary", "start", "greeter-v3", "-m", "version 3, mended again"); err != nil {
		return err
	}
	c.watched = "greeter-v3"
	if err := c.rest(ctx, time.Second); err != nil {
		return err
	}
	run, err := c.run(ctx, "greeter-v3")
	if err != nil {
		return err
	}
	number := run[0].GetRun()
	c.fleet.beside[0].kill()
	c.screen.event("the elected sidecar, the one of greeter v1, is killed; and greeter v3 fails half of its RPCs again")
	c.load.forget()
	sick := time.Now()
	if err := c.fleet.tell(ctx, 2, behaviour{fails: 0.5}); err != nil {
		return err
	}
	all := func() bool { return len(c.trips("greeter-v3", number)) == len(c.fleet.clients) }
	if err := c.until(ctx, "all sidecars take their own RPCs off the canary", patience, all); err != nil {
		return err
	}
	if err := c.rest(ctx, time.Second); err != nil {
		return err
	}
	trips, seen := c.trips("greeter-v3", number), c.load.sighted()
	last := trips[len(trips)-1].Time
	c.finds(seen.last["v3"].Sub(last) < time.Second,
		"with nobody to decide, all %d sidecars took their own RPCs off v3 by themselves, %.2f s to %.2f s after it failed; %d users saw an error",
		len(trips), trips[0].Time.Sub(sick).Seconds(), last.Sub(sick).Seconds(), len(seen.hurt))
	back := time.Now()
	c.screen.event("the sidecar of greeter v1 is back")
	if c.fleet.beside[0], err = c.fleet.startBeside(ctx, c.fleet.names[0], c.fleet.appAddrs[0]); err != nil {
		return err
	}
	if err := c.reaches(ctx, "greeter-v3", controlv1.Phase_PHASE_ROLLED_BACK); err != nil {
		return err
	}
	if run, err = c.run(ctx, "greeter-v3"); err != nil {
		return err
	}
	decided := run[len(run)-1]
	at := decided.GetSince().AsTime()
	c.finds(!c.load.sighted().last["v3"].After(at), "%.1f s after the killed sidecar was started again, v3 was rolled back for all by %s, which had been elected; no RPC met v3 meanwhile",
		at.Sub(back).Seconds(), decided.GetBy())
	c.watched = ""
	return nil
}

// subject is what the store calls a canary of the demo's.
func subject(name string) requests.Subject {
	return requests.Subject{Kind: control.Canary, Service: "greeter", Name: name}
}

// run returns the states of a canary's last run, in their order.
func (c *canaryPlay) run(ctx context.Context, name string) ([]*controlv1.RunState, error) {
	list, err := requests.History(ctx, c.store, subject(name))
	if err != nil {
		return nil, err
	}
	var states []*controlv1.RunState
	for _, one := range list {
		states = append(states, one.GetState())
	}
	last := states[len(states)-1].GetRun()
	return slices.DeleteFunc(states, func(s *controlv1.RunState) bool { return s.GetRun() != last }), nil
}

// reaches waits until a canary is in a phase. One that ends in another one never will be.
func (c *canaryPlay) reaches(ctx context.Context, name string, phase controlv1.Phase) error {
	var other error
	err := c.until(ctx, fmt.Sprintf("canary %s is %s", name, control.PhaseWord(phase)), patience, func() bool {
		s, err := requests.State(ctx, c.store, subject(name))
		if err != nil || s.GetPhase() == controlv1.Phase_PHASE_RUNNING {
			return false // a file that is being written may be read half a moment later
		}
		if s.GetPhase() != phase {
			other = fmt.Errorf("%w: canary %s is %s: %s", ErrNotSo, name, control.PhaseWord(s.GetPhase()), s.GetReason())
		}
		return true
	})
	if err == nil {
		c.news()
		err = other
	}
	return err
}

// stepsOf are the weights of a run's steps, and when they began.
func stepsOf(run []*controlv1.RunState) (weights string, changes []time.Time) {
	var all []string
	for _, s := range run {
		changes = append(changes, s.GetSince().AsTime())
		if s.GetPhase() == controlv1.Phase_PHASE_RUNNING {
			all = append(all, fmt.Sprintf("%g %%", float64(s.GetWeight())/100))
		}
	}
	return strings.Join(all, ", "), changes
}

// trips are the sidecars that took their own RPCs off a canary, the first one first.
func (s *stage) trips(canary string, run uint64) (all []entry) {
	for _, client := range s.fleet.clients {
		all = append(all, client.tripsOf(canary, run)...)
	}
	slices.SortFunc(all, func(a, b entry) int { return a.Time.Compare(b.Time) })
	return all
}

// tripsTold says who was faster than the elected sidecar.
func (s *stage) tripsTold(canary string, run uint64, began, decided time.Time) string {
	var told []string
	for _, trip := range s.trips(canary, run) {
		if trip.Time.Before(decided) {
			told = append(told, fmt.Sprintf("%s after %.2f s", trip.Side, trip.Time.Sub(began).Seconds()))
		}
	}
	if len(told) == 0 {
		return "no sidecar had seen enough by itself: all together are faster"
	}
	return "these had seen enough by themselves, and took their own RPCs off v3: " + strings.Join(told, ", ")
}

// evidence says what the elected sidecar has counted of the watched canary.
func (s *stage) evidence() string {
	var e *meshv1.EvidenceResponse
	err := s.fleet.askClient(func(ctx context.Context, sidecar adminv1.AdminClient) error {
		answer, err := sidecar.GetEvidence(ctx, &adminv1.GetEvidenceRequest{Service: "greeter", Name: s.watched})
		e = answer.GetEvidence()
		return err
	})
	if err != nil || e.GetState() == nil {
		return "canary: nobody is elected who counts"
	}
	return evidenceTold(e)
}

func evidenceTold(e *meshv1.EvidenceResponse) string {
	p := 1.0
	for _, g := range e.GetGuards() {
		p = min(p, g.GetP())
	}
	t := e.GetTally()
	if phase := e.GetState().GetPhase(); phase != controlv1.Phase_PHASE_RUNNING {
		return "canary " + control.PhaseWord(phase)
	}
	return fmt.Sprintf("canary %g %%: %d of %d RPCs failed, stable %d of %d, p %.2g",
		float64(e.GetState().GetWeight())/100, t.GetCanaryFailures(), t.GetCanaryRpcs(), t.GetStableFailures(), t.GetStableRpcs(), p)
}
