package canary

import (
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Reports that cannot be do not count, and harm neither the canary nor what others report.
func TestHostileReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.end()
		w.elect(nil)
		w.start(canary(stepOf(5000, time.Hour)))
		w.kill() // of a run that it began itself nobody else has decided anything
		w.elect(nil)
		time.Sleep(time.Second)
		l := w.elected.leading
		from := &meshv1.Hello{Id: "mallory", Process: 66}
		group := func(codes, buckets map[uint32]uint64) *meshv1.GroupCounts {
			return &meshv1.GroupCounts{Codes: codes, Buckets: buckets}
		}
		say := func(c *meshv1.CanaryCounts) {
			c.Name = "greeter-v2"
			l.Take(from, &meshv1.ReportRequest{Canaries: []*meshv1.CanaryCounts{c, nil, {Name: "nothing", Run: 1, Step: 1}}})
			time.Sleep(time.Second)
		}
		say(&meshv1.CanaryCounts{Run: 1, Step: 1, Canary: group(map[uint32]uint64{0: 7}, map[uint32]uint64{10: 7})})
		for _, c := range []*meshv1.CanaryCounts{
			{Run: 1, Step: 1, Canary: group(map[uint32]uint64{99: 1000}, nil)},
			{Run: 1, Step: 1, Canary: group(map[uint32]uint64{13: 1 << 63}, nil)},
			{Run: 1, Step: 1, Canary: group(map[uint32]uint64{0: 7}, map[uint32]uint64{10: 7, 1 << 30: 1})},
			{Run: 1, Step: 1, Canary: group(map[uint32]uint64{13: 1000}, nil)},                                 // 7 OK are gone
			{Run: 1, Step: 1, Stable: group(nil, nil), Canary: group(nil, nil)},                                // all are
			{Run: 2, Step: 1, Canary: group(map[uint32]uint64{13: 1000}, nil)},                                 // a run that is to come
			{Run: 1, Step: 2, Canary: group(map[uint32]uint64{13: 1000}, nil)},                                 // a step that is
			{Run: 0, Step: 0, Canary: group(map[uint32]uint64{13: 1000}, nil), RolledBack: 1 << 63},            // none
			{Run: 1, Step: 1, Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{0: 7}, Instances: 1 << 31}}, // too many
		} {
			say(c)
			tally := l.Evidence("greeter-v2").GetTally()
			if s := w.state("greeter-v2"); s.GetPhase() != running || tally.GetCanaryRpcs() != 7 {
				t.Fatalf("after %v it stands at %v with %v", c, s, tally)
			}
		}
		// One that has heard of a roll-back is believed: it can report failures as well. The
		// numbers do not run out by that.
		say(&meshv1.CanaryCounts{Run: 1, Step: 1, RolledBack: 1<<64 - 1})
		w.until(time.Second, "the roll-back", w.stateIs(rolledBack, 1))
		if s := w.state("greeter-v2"); s.GetNumber() > 1<<21 || s.GetReason() != "it was rolled back before" {
			t.Errorf("it stands at %v", s)
		}
		w.ask("greeter-v2", controlv1.Action_ACTION_START)
		w.until(5*time.Second, "the next run", func() bool { s := w.state("greeter-v2"); return s.GetRun() == 2 && s.GetPhase() == running })
	})
}
